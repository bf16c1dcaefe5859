from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, OneCycleLR
from torch.utils.data import DataLoader
from transformers import get_linear_schedule_with_warmup

import kd_lightning as kd
from kd_lightning.core.errors import ConfigError
from kd_lightning.features import model_info
from kd_lightning.training.optim import build_scheduler, default_optimizer, linear_warmup, multistep, parameter_groups

from ..toys import mlp


def objective(*rates: float | None) -> kd.Objective:
    terms = {
        f"t{i}": kd.Term(kd.Match("0", "0"), nn.MSELoss(), projection="linear", projection_lr=rate)
        for i, rate in enumerate(rates)
    }
    return kd.Objective(terms).bind(model_info(mlp(5)), model_info(mlp(7)))


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)


def rates(scheduler, optimizer, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_projections_join_the_students_group():
    groups = parameter_groups(student := mlp(5), made := objective(None, None))
    assert len(groups) == 1
    assert groups[0]["params"] == [*student.parameters(), *made.parameters()]


def test_projections_own_learning_rates_make_one_group_each():
    groups = parameter_groups(mlp(5), objective(0.1, None, 0.2, 0.1))
    assert [(len(group["params"]), group.get("lr")) for group in groups] == [(6, None), (4, 0.1), (2, 0.2)]


def test_frozen_parameters_stay_out():
    student, made = mlp(5), objective(None, 0.1)
    student[0].requires_grad_(False)
    made.requires_grad_(False)
    assert [len(group["params"]) for group in parameter_groups(student, made)] == [2]


def test_a_module_shared_by_two_terms_is_trained_once():
    shared = nn.Linear(5, 7)
    terms = {name: kd.Term(kd.Match("0", "0"), nn.MSELoss(), projection=shared) for name in "ab"}
    groups = parameter_groups(mlp(5), kd.Objective(terms).bind(model_info(mlp(5)), model_info(mlp(7))))
    torch.optim.SGD(groups, lr=0.1)  # refuses parameters that come twice
    assert len(groups[0]["params"]) == 6


@pytest.mark.parametrize(
    ("factory", "name"),
    [
        (partial(OneCycleLR, max_lr=1.0), "total_steps"),
        (CosineAnnealingLR, "_T_max"),
        (partial(CosineAnnealingLR, eta_min=0.1), "T_max"),
        (partial(OneCycleLR, max_lr=1.0, total_steps=None), "total_steps"),
        (partial(lambda *args, **more: OneCycleLR(*args, **more), max_lr=1.0, total_steps=None), "total_steps"),
    ],
)
def test_the_number_of_steps_is_filled_in(factory, name):
    assert getattr(build_scheduler(factory, sgd(), lambda: 12), name.lstrip("_")) == 12


def never() -> int:
    raise AssertionError("asked for the number of steps although none is missing")


@pytest.mark.parametrize(
    ("factory", "name", "steps"),
    [
        (partial(OneCycleLR, max_lr=1.0, total_steps=5), "total_steps", 5),
        (partial(OneCycleLR, max_lr=1.0, epochs=2, steps_per_epoch=7), "total_steps", 14),
        (partial(CosineAnnealingLR, T_max=9), "T_max", 9),
        (partial(ConstantLR, factor=0.5), "total_iters", 5),
    ],
)
def test_given_numbers_of_steps_are_kept(factory, name, steps):
    assert getattr(build_scheduler(factory, sgd(), never), name) == steps


def test_transformers_schedules_get_their_steps():
    optimizer = sgd()
    scheduler = build_scheduler(partial(get_linear_schedule_with_warmup, num_warmup_steps=1), optimizer, lambda: 5)
    assert rates(scheduler, optimizer, 6) == pytest.approx([0, 1, 0.75, 0.5, 0.25, 0])


def test_linear_warmup_rises_and_falls():
    optimizer = sgd()
    scheduler = build_scheduler(partial(linear_warmup, warmup=0.2), optimizer, lambda: 10)
    assert rates(scheduler, optimizer, 11) == pytest.approx(
        [0, 0.5, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0]
    )


@pytest.mark.parametrize(("warmup", "first"), [(0, 1.0), (0.99, 0.0)])
def test_the_ends_of_warm_up(warmup, first):
    optimizer = sgd()
    assert rates(linear_warmup(optimizer, 4, warmup), optimizer, 5)[0] == first


@pytest.mark.parametrize("warmup", [1, -0.1, 500])
def test_a_warm_up_in_steps_raises(warmup):
    with pytest.raises(ConfigError, match=r"`warmup` to be a share"):
        linear_warmup(sgd(), 10, warmup)


@pytest.mark.parametrize(("milestones", "drops"), [([0.5, 0.75], {10: 0.1, 15: 0.01}), ([0.4], {8: 0.1}), ([], {})])
def test_the_learning_rate_drops_at_shares_of_the_run(milestones: list[float], drops: dict[int, float]):
    optimizer, expected, now = sgd(), [], 1.0
    for step in range(20):
        now = drops.get(step, now)
        expected.append(now)
    scheduler = build_scheduler(partial(multistep, milestones=milestones), optimizer, lambda: 20)
    assert rates(scheduler, optimizer, 20) == pytest.approx(expected)


def test_milestones_at_one_step_of_a_short_run_both_count():
    optimizer = sgd()
    assert rates(multistep(optimizer, 2, [0.5, 0.6]), optimizer, 2) == pytest.approx([1.0, 0.01])


@pytest.mark.parametrize("milestones", [[100], [0.5, 1], [0]])
def test_a_milestone_in_epochs_raises(milestones: list[float]):
    with pytest.raises(ConfigError, match=r"`milestones` to be shares"):
        multistep(sgd(), 10, milestones)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_fused_optimizers_gradients_are_clipped_in_any_precision(precision: str):
    """Lightning refuses the pair under mixed precision; the student moves as with the unfused one."""

    def weights(optimizer: Any) -> torch.Tensor:
        torch.manual_seed(0)
        objective = kd.Objective({"mse": kd.Term(kd.Match("logits", "logits"), nn.MSELoss())})
        module = kd.DistillationModule(nn.Linear(4, 2), nn.Linear(4, 2), objective, optimizer=optimizer)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = Trainer(
            max_steps=3,
            gradient_clip_val=0.01,
            precision=precision,
            accelerator="cpu",
            **quiet,
        )
        trainer.fit(module, DataLoader([(torch.ones(3, 4), torch.zeros(3))] * 3, batch_size=None))
        return module.student.weight.detach()

    fused, plain = (partial(torch.optim.AdamW, lr=0.1, fused=fused) for fused in (True, False))
    torch.testing.assert_close(weights(fused), weights(plain))
    torch.testing.assert_close(weights(None), weights(partial(torch.optim.AdamW, lr=1e-4)))  # the default is fused too


def test_the_default_optimizer_is_fused_where_it_can_be():
    real, other = (nn.Parameter(torch.zeros(2, dtype=dtype)) for dtype in (torch.float32, torch.complex64))
    assert default_optimizer([{"params": [real]}]).defaults["fused"]
    assert not default_optimizer([{"params": [real]}, {"params": [other]}]).defaults["fused"]
    assert not default_optimizer([{"params": [nn.Parameter(torch.zeros(2, device="meta"))]}]).defaults["fused"]
