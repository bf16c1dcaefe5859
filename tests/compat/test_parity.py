"""Five SGD steps from the same weights on the same batches: the same student as TextBrewer's own distillers train."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import textbrewer
import torch
from textbrewer.presets import KD_LOSS_MAP, MATCH_LOSS_MAP, PROJ_MAP, TEMPERATURE_SCHEDULER
from torch.optim.lr_scheduler import LambdaLR

import kd_lightning as kd
from kd_lightning.compat.textbrewer import objective

from ..toys import ready, trainer
from .theirs import (
    RATE,
    adaptor,
    assert_same_weights,
    batches,
    bold,
    distilled_by_them,
    distilled_by_us,
    models,
    our_module,
    their_config,
    train_theirs,
    visible,
)

HIDDEN = {"feature": "hidden", "loss": "hidden_mse", "layer_T": 2, "layer_S": 1, "weight": 1.0}


def match(loss: str, **options: Any) -> dict[str, Any]:
    """An entry of `intermediate_matches` for one of TextBrewer's losses, on layers that differ in number."""
    layers: dict[str, Any] = {"layer_T": 2, "layer_S": 1}
    if loss in ("gram", "fsp", "nst", "mmd"):
        layers = {"layer_T": [0, 4], "layer_S": [0, 2]}
    feature = "attention" if loss.startswith("attention") else "hidden"
    return {"loss": loss, "feature": feature, "weight": 2.0, **layers, **options}


def assert_parity(folder: Path, config: dict[str, Any], **options: Any) -> None:
    """Train one student twice, by TextBrewer and by us, and compare what comes out."""
    teacher, student = models(width=options.pop("width", 16))
    data = options.pop("data", batches())
    ours = our_module(config, teacher, student)
    projections = ours.objective.projections()
    theirs = distilled_by_them(
        folder, config, teacher, student, data, projections=projections, train=options.pop("train", None),
        **options.pop("training", {}),
    )  # fmt: skip
    distilled_by_us(folder, ours, data, **options)
    assert_same_weights(ours.student, theirs.model_S, student)
    matched = [proj for proj in theirs.projs if proj is not None]
    for own, other in zip(projections.values(), matched, strict=True):
        assert_same_weights(own, other)


# -- every loss, scheduler and projection there is


@pytest.mark.parametrize("loss", MATCH_LOSS_MAP)
def test_each_match_loss_trains_the_same_student(loss, tmp_path):
    assert_parity(tmp_path, {"kd_loss_weight": 0, "intermediate_matches": [match(loss)]})


@pytest.mark.parametrize("loss", ["attention_mse", "attention_mse_sum", "attention_ce", "attention_ce_mean", "nst"])
def test_without_padding_too(loss, tmp_path):
    data = [{**batch, "attention_mask": torch.ones_like(batch["attention_mask"])} for batch in batches()]
    assert_parity(tmp_path, {"kd_loss_weight": 0, "intermediate_matches": [match(loss)]}, data=data)


@pytest.mark.parametrize("kind", PROJ_MAP)
@pytest.mark.parametrize(("loss", "weight"), [("hidden_mse", 2.0), ("fsp", 100.0)])
def test_projections_are_trained_the_same(loss, weight, kind, tmp_path):
    proj = [kind, 8, 16]
    assert_parity(
        tmp_path, {"kd_loss_weight": 0, "intermediate_matches": [match(loss, proj=proj, weight=weight)]}, width=8
    )


def test_a_projection_may_have_a_learning_rate_of_its_own(tmp_path):
    proj = ["linear", 8, 16, {"lr": 0.5}]
    assert_parity(tmp_path, {"intermediate_matches": [HIDDEN | {"proj": proj}, match("cos", proj=proj)]}, width=8)


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("scheduler", ["none", "constant", ["flsw", 1.5, 2], ["cwsm", 0.5]], ids=str)
@pytest.mark.parametrize("kind", KD_LOSS_MAP.keys())
def test_each_kd_loss_trains_the_same_student(kind, scheduler, shift, tmp_path):
    config = {"temperature": 4, "kd_loss_type": kind, "kd_loss_weight": 5.0, "probability_shift": shift}
    assert_parity(tmp_path, {**config, "temperature_scheduler": scheduler})


def test_all_temperature_schedulers_are_among_them():
    assert set(TEMPERATURE_SCHEDULER.store) == {"constant", "flsw", "cwsm"}


@pytest.mark.parametrize(
    "weights",
    [
        {"kd_loss_weight": 1, "kd_loss_weight_scheduler": "linear_decay"},
        {"hard_label_weight": 0, "hard_label_weight_scheduler": "linear_growth"},
        {"hard_label_weight": 1, "hard_label_weight_scheduler": "linear_decay", "kd_loss_weight": 3},
    ],
    ids=str,
)
def test_each_weight_scheduler_trains_the_same_student(weights, tmp_path):
    assert_parity(tmp_path, {"temperature": 2, **weights})


def test_all_of_it_at_once(tmp_path):
    matches = [
        *(HIDDEN | {"layer_T": t, "layer_S": s, "proj": ["linear", 8, 16]} for s, t in ((0, 0), (1, 2), (2, 4))),
        *(match("nst", layer_T=[t, t], layer_S=[s, s]) for s, t in ((0, 0), (1, 2), (2, 4))),
        match("attention_mse", layer_T=3, layer_S=1),
        HIDDEN | {"proj": ["linear", 8, 16]},  # the second match of one name
    ]
    config = {"temperature": 8, "hard_label_weight": 0.5, "intermediate_matches": matches}
    assert_parity(tmp_path, config, width=8)


# -- how it is trained


def test_accumulated_batches_are_averaged_the_same(tmp_path):
    training = {"gradient_accumulation_steps": 2}
    assert_parity(
        tmp_path,
        {"intermediate_matches": [HIDDEN], "kd_loss_weight_scheduler": "linear_decay"},
        data=batches(10),
        training=training,
        accumulate_grad_batches=2,
    )


def test_gradients_are_clipped_the_same(tmp_path):
    config = {"intermediate_matches": [HIDDEN], "hard_label_weight": 1}
    assert_parity(tmp_path, config, train={"max_grad_norm": 0.3}, gradient_clip_val=0.3)


def test_a_learning_rate_schedule_is_stepped_the_same(tmp_path):
    teacher, student = models()
    schedule = {"lr_lambda": lambda step: 1 / (1 + step)}
    train = {"scheduler_class": LambdaLR, "scheduler_args": schedule}
    theirs = distilled_by_them(tmp_path, {}, teacher, student, batches(), train=train)
    ours = kd.DistillationModule(
        copy.deepcopy(student),
        teacher,
        objective({}),
        optimizer=partial(torch.optim.SGD, lr=RATE),
        scheduler=partial(LambdaLR, **schedule),
    )
    distilled_by_us(tmp_path, ours, batches())
    assert_same_weights(ours.student, theirs.model_S, student)


# -- the other distillers


def test_the_basic_distiller_trains_the_same_student(tmp_path):
    teacher, student = models()
    config = {"temperature": 4, "hard_label_weight": 0.5}
    theirs = distilled_by_them(tmp_path, config, teacher, student, batches(), kind=textbrewer.BasicDistiller)
    ours = our_module(config, teacher, student)
    distilled_by_us(tmp_path, ours, batches())
    assert_same_weights(ours.student, theirs.model_S, student)


def test_logits_that_they_keep_in_memory_are_those_of_a_live_teacher(tmp_path, monkeypatch):
    monkeypatch.setattr("random.shuffle", lambda rows: None)
    teacher, student = models()
    config = {"temperature": 4, "is_caching_logits": True}
    theirs = distilled_by_them(tmp_path, config, teacher, student, batches(), kind=textbrewer.BasicDistiller)
    with pytest.warns(UserWarning, match="is_caching_logits has no counterpart"):
        ours = our_module(config, teacher, student)
    distilled_by_us(tmp_path, ours, batches())
    assert_same_weights(ours.student, theirs.model_S, student)


@pytest.mark.parametrize("scheduler", ["none", ["flsw", 1.5, 2]], ids=str)
@pytest.mark.parametrize("shift", [False, True])
def test_several_teachers_train_the_same_student(shift, scheduler, tmp_path):
    teachers = [bold(4, 16, seed=1), bold(3, 12, seed=2), bold(2, 8, seed=3)]
    student = bold(2, 16)
    config = {"probability_shift": shift, "temperature_scheduler": scheduler, "hard_label_weight": 1}
    theirs = distilled_by_them(
        tmp_path, config, teachers, student, batches(), kind=textbrewer.MultiTeacherDistiller
    )  # fmt: skip
    ensemble = kd.EnsembleTeacher(dict(zip("abc", copy.deepcopy(teachers), strict=True)))
    ours = our_module(config, ensemble, student)
    distilled_by_us(tmp_path, ours, batches())
    assert_same_weights(ours.student, theirs.model_S, student)


def test_a_model_without_a_teacher_is_trained_the_same(tmp_path):
    model = bold(2, 16)
    theirs = textbrewer.BasicTrainer(their_config(tmp_path), visible(model), adaptor)
    train_theirs(theirs, batches())
    own_loss = kd.Objective({"hard": kd.Term(kd.Match("loss"), kd.losses.Identity())})
    ours = kd.DistillationModule(
        copy.deepcopy(model), None, own_loss, optimizer=partial(torch.optim.SGD, lr=RATE)
    )  # fmt: skip
    distilled_by_us(tmp_path, ours, batches())
    assert_same_weights(ours.student, theirs.model, model)


def test_several_tasks_in_a_fixed_order_train_the_same_student(tmp_path, monkeypatch):
    """TextBrewer draws a task for each batch by `np.random.choice`; here it draws in turn."""
    order = ["a", "b", "b", "a", "b", "a", "a", "b", "b", "a"]
    draws = iter(order)
    monkeypatch.setattr("textbrewer.distiller_multitask.np.random.choice", lambda names, p: next(draws))
    teachers = {"a": bold(4, 16, seed=1), "b": bold(3, 12, seed=2)}
    student, config = bold(2, 16), {"hard_label_weight": 0.5, "intermediate_matches": [match("nst")]}
    config["intermediate_matches"][0]["layer_T"] = [0, 3]
    data = {"a": batches(10)[:5], "b": batches(10)[5:]}
    theirs = textbrewer.MultiTaskDistiller(
        their_config(tmp_path, ckpt_steps=5, gradient_accumulation_steps=2),
        textbrewer.DistillationConfig.from_dict(copy.deepcopy(config)),
        {name: visible(teacher) for name, teacher in teachers.items()},
        visible(student),
        dict.fromkeys(teachers, adaptor),
        dict.fromkeys(teachers, adaptor),
    )
    theirs.train(torch.optim.SGD(theirs.model_S.parameters(), lr=RATE), data, num_steps=5)

    shared = copy.deepcopy(student)
    modules = {name: kd.DistillationModule(shared, teachers[name], objective(config)) for name in teachers}
    ours = kd.MultiTaskModule(modules, optimizer=partial(torch.optim.SGD, lr=RATE))
    rows = {name: iter(own) for name, own in data.items()}
    stream = [{**next(rows[name]), "task": name} for name in order]
    trainer(tmp_path, max_epochs=1, accumulate_grad_batches=2).fit(ours, ready(stream))
    assert_same_weights(shared, theirs.model_S, student)
