"""Where TextBrewer is at fault: what it does, and what we do instead."""

from __future__ import annotations

import copy
import json
from functools import partial
from typing import Any

import pytest
import textbrewer
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from textbrewer.distiller_utils import CustomMatch
from torch import nn
from transformers import BertForTokenClassification

import kd_lightning as kd
from kd_lightning.compat.textbrewer import objective, terms

from .test_batches import headed, tagged, tagger
from .theirs import (
    RATE,
    adaptor,
    apart,
    assert_same_weights,
    batches,
    bold,
    distilled_by_them,
    distilled_by_us,
    models,
    moved,
    our_module,
    their_config,
    train_theirs,
    visible,
)

SGD = partial(torch.optim.SGD, lr=RATE)
PROJECTED = {
    "feature": "hidden", "loss": "hidden_mse", "layer_T": 2, "layer_S": 1, "weight": 1.0, "proj": ["linear", 8, 16]
}  # fmt: skip


def test_custom_matches_crash_there_and_are_terms_here(tmp_path):
    teacher, student = models()
    theirs, own = visible(teacher), visible(student)
    match = CustomMatch(theirs.bert.pooler, own.bert.pooler, 1.0, nn.MSELoss())
    distiller = textbrewer.GeneralDistiller(
        their_config(tmp_path), textbrewer.DistillationConfig(), theirs, own, adaptor, adaptor, custom_matches=[match]
    )
    with pytest.raises(KeyError, match="match_weghts"):
        train_theirs(distiller, batches())

    pooled = kd.Term(kd.Match("bert.pooler", "bert.pooler"), nn.MSELoss(), weight=3.0)
    ours = kd.DistillationModule(
        copy.deepcopy(student), copy.deepcopy(teacher), kd.Objective({**terms({}), "pooled": pooled}), optimizer=SGD
    )
    with torch.no_grad():
        expected = nn.functional.mse_loss(
            *(model.eval().bert(**without_labels(batches()[0])).pooler_output for model in (student, teacher))
        )
    torch.testing.assert_close(ours.compare(batches()[0]).parts["pooled"], expected)
    distilled_by_us(tmp_path, ours, batches())
    assert moved(student, ours.student) > 1e-3


def without_labels(batch: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in batch.items() if key != "labels"}


def test_their_checkpoints_lose_projections_and_optimizer(tmp_path):
    teacher, student = models(width=8)
    config = {"intermediate_matches": [PROJECTED]}
    ours = our_module(config, teacher, student)
    projections = ours.objective.projections()
    theirs = distilled_by_them(tmp_path, config, teacher, student, batches(), projections=projections)
    saved = torch.load(tmp_path / "theirs" / "gs5.pkl", weights_only=True)
    assert saved.keys() == theirs.model_S.state_dict().keys()

    keep = ModelCheckpoint(tmp_path / "ours", filename="all")
    distilled_by_us(tmp_path, ours, batches(), callbacks=[keep], enable_checkpointing=True)
    checkpoint = torch.load(tmp_path / "ours" / "all.ckpt", weights_only=True)
    weight = checkpoint["state_dict"]["objective.terms.hidden_mse_1_2.projection.weight"]
    assert torch.equal(weight, ours.objective.projections()["hidden_mse_1_2"].weight)
    assert checkpoint["optimizer_states"]


def test_they_drop_the_last_window_of_accumulated_batches(tmp_path):
    """Five batches by two: two steps there, and a third, of one batch, here."""
    teacher, student = models()
    theirs = distilled_by_them(tmp_path, {}, teacher, student, batches(), gradient_accumulation_steps=2)
    whole, all_of_them = (our_module({}, teacher, student) for _ in range(2))
    distilled_by_us(tmp_path, whole, batches(4), accumulate_grad_batches=2)
    assert_same_weights(whole.student, theirs.model_S, student)
    distilled_by_us(tmp_path, all_of_them, batches(), accumulate_grad_batches=2)
    assert all_of_them.trainer.global_step == 3
    assert apart(all_of_them.student, whole.student) > 1e-4


@pytest.mark.parametrize(("scheduler", "after"), [("linear_decay", lambda x: 1 - x), ("linear_growth", lambda x: x)])
def test_their_schedules_replace_the_weight_after_the_first_step(scheduler, after, tmp_path):
    """From the second step on a migrated objective is the same; `schedule` below is what all of theirs amounts to."""
    teacher, student = models()
    config = {"kd_loss_weight": 0.25, "kd_loss_weight_scheduler": scheduler}
    theirs = distilled_by_them(tmp_path, config, teacher, student, batches())
    found = objective(config)
    found.named_terms()["logits"].schedule = lambda x: 0.25 if x == 0 else after(x)
    exact = kd.DistillationModule(copy.deepcopy(student), copy.deepcopy(teacher), found, optimizer=SGD)
    distilled_by_us(tmp_path, exact, batches())
    assert_same_weights(exact.student, theirs.model_S, student)

    migrated = objective(config).named_terms()["logits"]
    assert [migrated.weight_at(x) for x in (0.0, 0.2, 1.0)] == [after(0.0), after(0.2), after(1.0)]
    explicit = kd.Term(migrated.match, migrated.loss, weight=0.25, schedule=migrated.schedule)
    assert explicit.weight_at(0.2) == 0.25 * after(0.2)


def test_a_probability_shift_crashes_there_under_a_mask(tmp_path):
    """Here it is what TextBrewer computes where an adaptor has chosen the rows itself."""

    def labelled(batch: Any, outputs: Any) -> dict[str, Any]:
        return {**tagger(batch, outputs), "labels": batch["labels"]}

    def chosen(batch: Any, outputs: Any) -> dict[str, Any]:
        rows = batch["attention_mask"].bool()
        return {"logits": outputs["logits"][rows], "labels": batch["labels"][rows]}

    teacher, student = (headed(BertForTokenClassification, layers, layers) for layers in (3, 2))
    config = {"probability_shift": True}
    data = [tagged(i) for i in range(5)]
    with pytest.raises((RuntimeError, IndexError)):
        distilled_by_them(tmp_path, config, teacher, student, data, adaptors=(labelled, labelled))
    theirs = distilled_by_them(tmp_path, config, teacher, student, data, adaptors=(chosen, chosen))
    ours = our_module(config, teacher, student)
    distilled_by_us(tmp_path, ours, data)
    assert_same_weights(ours.student, theirs.model_S, student)


def test_their_temperatures_turn_negative(tmp_path):
    """With a large beta; ours stop at the floor, and are theirs above it."""
    teacher, student = models()
    config = {"temperature": 1, "temperature_scheduler": ["cwsm", 4]}
    ours = our_module(config, teacher, student)
    batch = batches(1, rows=16)[0]
    logits = [model.eval()(**batch).logits for model in (student, teacher)]
    rule = textbrewer.DistillationConfig(**config).temperature_scheduler
    expected = rule(*logits, 1)
    found = ours.objective.named_terms()["logits"].loss.sample_temperature(*logits, 1.0)
    assert expected.min() < 0
    torch.testing.assert_close(found, expected.clamp(min=0.1))
    theirs = distilled_by_them(tmp_path, config, teacher, student, [batch] * 5)
    distilled_by_us(tmp_path, ours, [batch] * 5)
    assert apart(ours.student, theirs.model_S) > 1e-3


def test_their_teacher_is_not_frozen(tmp_path):
    teacher, student = models()
    theirs = distilled_by_them(tmp_path, {}, teacher, student, batches())
    assert all(p.requires_grad for p in theirs.model_T.parameters())
    ours = our_module({}, teacher, student)
    assert not any(p.requires_grad for model in ours.teacher.models() for p in model.parameters())


def test_their_clipping_spares_projections(tmp_path):
    """There the student's gradients are clipped by their own norm; here by the norm of all that is trained."""
    teacher, student = models(width=8)
    config = {"kd_loss_weight": 0, "intermediate_matches": [PROJECTED]}
    data = batches(1)
    ours = our_module(config, teacher, student)
    projection = ours.objective.projections()["hidden_mse_1_2"]
    start = copy.deepcopy(projection)
    theirs = distilled_by_them(
        tmp_path, config, teacher, student, data,
        projections=ours.objective.projections(), train={"max_grad_norm": 0.1},
    )  # fmt: skip
    distilled_by_us(tmp_path, ours, data, gradient_clip_val=0.1)
    assert step_norm(student, theirs.model_S) == pytest.approx(RATE * 0.1, rel=1e-3)
    assert step_norm(start, theirs.projs[0]) > 2 * RATE * 0.1
    whole = (step_norm(student, ours.student) ** 2 + step_norm(start, projection) ** 2) ** 0.5
    assert whole == pytest.approx(RATE * 0.1, rel=1e-3)


def step_norm(start: nn.Module, end: nn.Module) -> float:
    pairs = zip(start.parameters(), end.parameters(), strict=True)
    return float(torch.stack([(b - a).detach().square().sum() for a, b in pairs]).sum().sqrt())


def test_they_refuse_a_scheduler_that_a_file_calls_none(tmp_path):
    """They compare strings by identity."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"temperature": 8, "temperature_scheduler": "none"}))
    with pytest.raises(AssertionError, match="Invalid temperature_scheduler"):
        textbrewer.DistillationConfig.from_json_file(file)
    assert objective(file).named_terms()["logits"].loss.sample_temperature is None


def test_only_distillers_that_are_general_know_matches(tmp_path):
    """Basic and multi-teacher distillers leave matches out without a word; here they are matched, or refused."""
    teacher, student = models()
    config = {"intermediate_matches": [{**PROJECTED, "proj": None}]}
    basic = distilled_by_them(tmp_path, config, teacher, student, batches(), kind=textbrewer.BasicDistiller)
    without = our_module({}, teacher, student)
    distilled_by_us(tmp_path, without, batches())
    assert_same_weights(without.student, basic.model_S, student)
    with pytest.raises(kd.KDError, match="of which teacher"):
        our_module(config, kd.EnsembleTeacher({"a": teacher, "b": bold(4, seed=2)}), student)
