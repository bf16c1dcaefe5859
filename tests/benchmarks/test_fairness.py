"""What makes a comparison fair: all contenders do the same work, and only that is timed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import kd_lightning as kd
from benchmarks import agreement, contenders, formulas, ours, zoo
from benchmarks.models import make_batches
from benchmarks.race import Watch
from benchmarks.setting import Setting

TINY = Setting("tiny", rows=2, length=8)


def test_we_and_textbrewer_do_the_same_work():
    own, other = agreement.check_same_work(TINY)
    assert own == pytest.approx(other, rel=1e-4)


def heavier(pairs: Any, whole: Any = ours.make_objective) -> kd.Objective:
    """The objective with one of its terms weighing one percent more."""
    made = whole(pairs)
    made.named_terms()["mse_0"].weight = 1.01
    return made


@pytest.mark.parametrize(("name", "value"), [("TEMPERATURE", 4.0), ("make_objective", heavier)])
def test_other_work_is_noticed(name, value, monkeypatch):
    monkeypatch.setattr(ours, name, value)
    with pytest.raises(AssertionError, match="Not the same work"):
        agreement.check_same_work(TINY)


@pytest.mark.parametrize("name", [contenders.TEXTBREWER, contenders.LIVE, contenders.CACHED, contenders.PLAIN])
def test_a_step_trains_the_student_and_leaves_no_gradient(name, monkeypatch, tmp_path):
    student = TINY.make_student()
    monkeypatch.setattr(Setting, "make_student", lambda self: student)
    before = [p.detach().clone() for p in student.parameters()]
    contenders.BUILDERS[name](TINY, tmp_path)(TINY.make_batches(1)[0])
    assert any(not torch.equal(old, new) for old, new in zip(before, student.parameters(), strict=True))
    assert all(p.grad is None for p in student.parameters())


def test_the_shortest_row_is_shorter_by_the_padding():
    (batch,) = make_batches(1, rows=3, length=10, size="tiny", padding=0.4)
    assert batch["attention_mask"].sum(1).tolist() == [10, 8, 6]
    assert not batch["input_ids"][batch["attention_mask"] == 0].any()
    assert batch["sample_id"].tolist() == [0, 1, 2]


def test_matched_layers_are_those_of_textbrewers_recipe():
    assert Setting().pairs == [(0, 0), (1, 3), (2, 6), (3, 9), (4, 12)]
    assert Setting(matched=1).pairs == [(4, 12)]
    assert Setting(matched=0).pairs == []


def test_validating_does_not_count_as_training(monkeypatch):
    """A clock that moves with each step, and in every validation."""
    now = [0.0]

    def validate(model: nn.Module, *rest: Any) -> float:
        now[0] += 100.0
        return 0.5

    monkeypatch.setattr("benchmarks.race.accuracy_of", validate)
    watch = Watch([], goal=0.5, every=2, clock=lambda: now[0])
    over = []
    for _ in range(2):
        now[0] += 1.0
        over.append(watch.step(nn.Linear(1, 1)))
    assert over == [False, True]
    assert watch.row("x") == {
        "contender": "x",
        "goal": 0.5,
        "reached": True,
        "train s": 2.0,
        "steps": 2,
        "best accuracy": 0.5,
    }


SMALL = zoo.Shape(teacher=14, student=8, batch=4)


@pytest.mark.parametrize("method", zoo.method_names())
def test_the_loop_by_hand_trains_as_we_do(method):
    """After a step on one batch the students are the same, and so is what a method trains beside them."""
    contest = zoo.Contest(method, SMALL)
    loop = contest.by_hand()
    zoo.check_same_work(contest, loop)
    (batch,) = SMALL.batches(1)
    before = [parameter.clone() for parameter in loop.student.parameters()]
    contest.ours()(batch)
    loop(batch)
    trained = [p for group in loop.optimizer.param_groups for p in group["params"]]
    mine = [*contest.module.student.parameters(), *contest.module.objective.parameters()]
    for own, other in zip(mine, trained, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(*pair) for pair in zip(before, loop.student.parameters(), strict=True))
    assert not loop.of_student
    assert not loop.of_teacher


def test_a_loop_with_another_loss_is_noticed():
    contest = zoo.Contest("st", SMALL)
    loop = contest.by_hand()
    loop.lines["logits"].loss.temperature = 3.0  # type: ignore[attr-defined]
    with pytest.raises(AssertionError, match="our 'logits' is"):
        zoo.check_same_work(contest, loop)


@pytest.mark.parametrize(
    ("name", "other", "shape"),
    [(formulas.NST, formulas.NST_PUBLISHED, (3, 6, 2, 2)), (formulas.ANGLE, formulas.ANGLE_PUBLISHED, (5, 7))],
)
def test_functions_are_the_published_ones(name, other, shape, monkeypatch):
    (pair,) = formulas.pairs(*shape, count=1)
    formulas.check_same_values(name, other, pair)
    monkeypatch.setitem(formulas.FUNCTIONS, other, lambda s, t: 1.01 * formulas.FUNCTIONS[name](s, t))
    with pytest.raises(AssertionError, match="Not the same function"):
        formulas.check_same_values(name, other, pair)
