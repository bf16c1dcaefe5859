from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR, LinearLR, OneCycleLR, ReduceLROnPlateau, SequentialLR

import kd_lightning as kd
from kd_lightning.core.errors import ConfigError

from ..toys import mlp
from .modules_of_users import Classifier
from .test_callback import fit, objective

ADAM = partial(torch.optim.AdamW, lr=0.1)
SCHEDULERS: dict[str, Any] = {
    "one cycle": lambda o: OneCycleLR(o, 0.1, total_steps=8),
    "lambda": lambda o: LambdaLR(o, lambda step: 0.5**step),
    "sequential": lambda o: SequentialLR(o, [LinearLR(o), LinearLR(o)], milestones=[2]),
}


def groups(runner: Any) -> list[dict[str, Any]]:
    return runner.optimizers[0].param_groups


def run(configure: Any, tmp_path: Any, **options: Any) -> tuple[Any, Any]:
    callback = kd.DistillationCallback(mlp(7, seed=1), objective(**options))
    return fit(Classifier(configure=configure), callback, tmp_path), callback


def test_without_their_own_learning_rate_projections_join_the_first_group(tmp_path):
    runner, callback = run(lambda m: ADAM(m.parameters()), tmp_path)
    assert [len(group["params"]) for group in groups(runner)] == [6]
    assert [p.shape for p in groups(runner)[0]["params"][-2:]] == [p.shape for p in callback.objective.parameters()]


@pytest.mark.parametrize("name", ["lambda", "sequential"])
def test_with_their_own_learning_rate_projections_are_a_scheduled_group(tmp_path, name):
    def configure(module: Any) -> Any:
        optimizer = ADAM(module.parameters())
        return [optimizer], [SCHEDULERS[name](optimizer)]

    runner, callback = run(configure, tmp_path, projection_lr=0.7)
    student, own = groups(runner)
    assert own["initial_lr"] == 0.7
    assert student["initial_lr"] == 0.1
    assert {id(p) for p in own["params"]} == {id(p) for p in callback.objective.parameters()}
    assert own["lr"] / 0.7 == pytest.approx(student["lr"] / 0.1)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_of_all_kinds_take_a_joined_group(tmp_path, name):
    def configure(module: Any) -> Any:
        optimizer = ADAM(module.parameters())
        return {"optimizer": optimizer, "lr_scheduler": SCHEDULERS[name](optimizer)}

    run(configure, tmp_path)


def test_a_plateau_scheduler_works(tmp_path):
    def configure(module: Any) -> Any:
        optimizer = ADAM(module.parameters())
        plan = {"scheduler": ReduceLROnPlateau(optimizer), "monitor": "distillation/loss"}
        return {"optimizer": optimizer, "lr_scheduler": plan}

    run(configure, tmp_path, projection_lr=0.7)


def test_several_groups_stay_and_named_parameters_too(tmp_path):
    def two(module: Any) -> Any:
        return ADAM([{"params": module.model[0].parameters()}, {"params": module.model[2].parameters(), "lr": 0.2}])

    runner, _ = run(two, tmp_path)
    assert [len(group["params"]) for group in groups(runner)] == [4, 2]
    assert [group["lr"] for group in groups(runner)] == [0.1, 0.2]
    runner, _ = run(lambda m: ADAM(m.named_parameters()), tmp_path)
    assert groups(runner)[0]["param_names"][-1] == "kd_objective.terms.hidden.projection.bias"


def test_schedulers_that_cannot_take_a_group_raise(tmp_path):
    def one_lambda_each(module: Any) -> Any:
        optimizer = ADAM(module.parameters())
        return [optimizer], [LambdaLR(optimizer, [lambda step: 1.0])]

    run(one_lambda_each, tmp_path)
    with pytest.raises(ConfigError, match=r"cannot take the projections' own group .*Leave projection_lr out"):
        run(one_lambda_each, tmp_path, projection_lr=0.7)


def test_a_scheduler_that_overrides_a_learning_rate_raises(tmp_path):
    def configure(module: Any) -> Any:
        optimizer = ADAM(module.parameters())
        return [optimizer], [SCHEDULERS["one cycle"](optimizer)]

    with pytest.raises(ConfigError, match=r"overrides projection_lr=0.7 by max_lr=0.1"):
        run(configure, tmp_path, projection_lr=0.7)


def test_an_optimizer_made_elsewhere_raises(tmp_path):
    class Early(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.made = ADAM(self.parameters())
            self.configure = lambda module: module.made

    with pytest.raises(ConfigError, match=r"optimizer that it did not make"):
        fit(Early(), kd.DistillationCallback(mlp(7, seed=1), objective()), tmp_path)


def test_the_optimizers_constructor_is_restored(tmp_path):
    born = torch.optim.Optimizer.__init__
    run(lambda m: ADAM(m.parameters()), tmp_path)
    assert torch.optim.Optimizer.__init__ is born
    with pytest.raises(ZeroDivisionError):
        run(lambda m: 1 / 0, tmp_path)
    assert torch.optim.Optimizer.__init__ is born
