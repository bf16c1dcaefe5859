"""Temperatures by sample and by progress, and shifted probabilities, against TextBrewer and by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from textbrewer import losses as theirs
from textbrewer.distiller_utils import probability_shift_, select_logits_with_mask
from textbrewer.schedulers import cwsm_temperature_scheduler_builder, flsw_temperature_scheduler_builder
from torch.nn import functional as F

import kd_lightning as kd
from kd_lightning import losses, schedules
from kd_lightning.compat import textbrewer
from kd_lightning.core.errors import ConfigError, MatchError
from kd_lightning.functional.ensembling import confidence, mean_probabilities

from ..toys import bert, pairs, ready, trainer, words

RULES = {
    "flsw": (schedules.FLSW(beta=0.5, gamma=2.0), flsw_temperature_scheduler_builder(0.5, 2.0)),
    "cwsm": (schedules.CWSM(beta=2.0), cwsm_temperature_scheduler_builder(2.0)),
}


def two(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return student.requires_grad_(), teacher


@pytest.mark.parametrize("name", RULES)
def test_a_temperature_for_each_sample_equals_textbrewers(name):
    rule, builder = RULES[name]
    student, teacher = two(5, 3)
    torch.testing.assert_close(rule(student, teacher, 4.0), builder(student, teacher, 4.0))
    loss = textbrewer.SoftCrossEntropy(4.0, sample_temperature=rule)
    expected = theirs.kd_ce_loss(student, teacher, builder(student, teacher, 4.0))
    torch.testing.assert_close(loss(student, teacher), expected)
    own, other = (torch.autograd.grad(value, student)[0] for value in (loss(student, teacher), expected))
    torch.testing.assert_close(own, other)


@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 3)])
@pytest.mark.parametrize("name", RULES)
def test_squared_errors_of_logits_have_temperatures_by_sample_too(name, shape):
    rule, builder = RULES[name]
    student, teacher = two(*shape)
    loss = textbrewer.LogitMSE(4.0, sample_temperature=rule)
    expected = theirs.kd_mse_loss(student, teacher, builder(student, teacher, 4.0))
    torch.testing.assert_close(loss(student, teacher), expected)
    own, other = (torch.autograd.grad(value, student)[0] for value in (loss(student, teacher), expected))
    torch.testing.assert_close(own, other)


def test_a_scheduled_temperature_divides_squared_errors():
    student, teacher = two(5, 3)
    loss = textbrewer.LogitMSE(4.0, temperature_schedule=schedules.LinearDecay())
    torch.testing.assert_close(loss(student, teacher, progress=0.75), F.mse_loss(student, teacher))
    assert loss.scheduled
    assert not losses.LogitMSE().scheduled


@pytest.mark.parametrize("name", RULES)
def test_under_a_mask_the_mean_runs_over_the_tokens_that_count(name):
    rule, builder = RULES[name]
    student, teacher = two(2, 4, 3)
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    chosen = [select_logits_with_mask([x], [mask])[0] for x in (student, teacher)]
    torch.testing.assert_close(rule(student, teacher, 4.0, mask)[mask.bool()], builder(*chosen, 4.0))


def test_the_factor_is_each_rows_own_square():
    rule = RULES["flsw"][0]
    student, teacher = two(5, 3)
    per_row = rule(student, teacher, 4.0)
    rows = [
        F.kl_div((s / t).log_softmax(-1), (z / t).softmax(-1), reduction="sum") * t**2
        for s, z, t in zip(student, teacher, per_row, strict=True)
    ]
    torch.testing.assert_close(losses.SoftTarget(4.0, sample_temperature=rule)(student, teacher), sum(rows) / 5)


@pytest.mark.parametrize("rule", [schedules.FLSW(beta=99.0), schedules.CWSM(beta=99.0)])
def test_no_temperature_falls_below_the_floor_where_textbrewers_turn_negative(rule):
    student, teacher = two(64, 3)
    found = rule(student, teacher, 4.0)
    assert found.min() == rule.floor
    assert torch.isfinite(losses.SoftTarget(4.0, sample_temperature=rule)(student, teacher))
    assert cwsm_temperature_scheduler_builder(99.0)(student, teacher, 4.0).min() < 0


def test_positions_under_a_mask_are_no_part_of_it():
    student, teacher = two(2, 4)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    for rule, _ in RULES.values():
        found = rule(student, teacher, 4.0, mask)
        dirty = [x.masked_fill(mask == 0, 1e9) for x in (student, teacher)]
        torch.testing.assert_close(rule(*dirty, 4.0, mask), found)


def test_annealing_follows_progress():
    student, teacher = two(5, 3)
    loss = losses.SoftTarget(8.0, teacher_temperature=4.0, temperature_schedule=lambda x: 1 - 0.5 * x)
    torch.testing.assert_close(loss(student, teacher, progress=1.0), losses.SoftTarget(4.0, 2.0)(student, teacher))


def test_a_run_anneals_by_its_steps(tmp_path):
    seen: list[float] = []

    def schedule(progress: float) -> float:
        seen.append(progress)
        return 1.0

    soft = kd.losses.SoftTarget(2.0, temperature_schedule=schedule)
    objective = kd.Objective({"soft": kd.Term(kd.Match("logits", "logits"), kd.losses.ProbabilityShift(soft))})
    module = kd.DistillationModule(bert(1), bert(2), objective)
    trainer(tmp_path, max_epochs=1).fit(module, ready([words(seed=i) for i in range(4)]))
    assert seen == [0.0, 0.25, 0.5, 0.75]


def test_a_temperature_that_ends_at_zero_is_an_error():
    loss = losses.SoftTarget(2.0, temperature_schedule=schedules.LinearDecay())
    with pytest.raises(ConfigError, match=r"LinearDecay\(\) makes a temperature of 0.0"):
        loss(*two(2, 3), progress=1.0)


@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 3)])
def test_shifted_probabilities_equal_textbrewers_and_leave_the_teacher_alone(shape):
    student, teacher = two(*shape)
    labels = torch.randint(0, 3, shape[:-1])
    if len(shape) == 3:
        labels[0, 1] = -100
    before = teacher.clone()
    ours = losses.ProbabilityShift(textbrewer.SoftCrossEntropy(4.0))(student, teacher, None, labels)
    torch.testing.assert_close(teacher, before)
    torch.testing.assert_close(ours, theirs.kd_ce_loss(student, probability_shift_(before, labels), 4.0))


def test_a_shift_works_with_a_mask_where_textbrewer_crashes():
    student, teacher = two(2, 4, 3)
    mask, labels = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]), torch.randint(0, 3, (2, 4))
    loss = losses.ProbabilityShift(losses.SoftTarget(4.0))(student, teacher, mask, labels)
    rows = losses.ProbabilityShift(losses.SoftTarget(4.0))(
        student[mask.bool()], teacher[mask.bool()], None, labels[mask.bool()]
    )
    torch.testing.assert_close(loss, rows)


@pytest.mark.parametrize("loss", [textbrewer.SoftCrossEntropy(4.0), textbrewer.LogitMSE(4.0)])
def test_textbrewers_shift_uses_no_mask_over_positions_as_its_losses_use_none(loss):
    student, teacher = two(2, 4)
    mask, labels = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]]), torch.tensor([0, 1])
    shift = textbrewer.ProbabilityShift(loss)
    torch.testing.assert_close(shift(student, teacher, mask, labels), shift(student, teacher, None, labels))


def test_in_an_objective_labels_come_from_the_batch():
    objective = kd.Objective(
        {"soft": kd.Term(kd.Match("logits", "logits"), kd.losses.ProbabilityShift(kd.losses.LogitMSE()))}
    )
    student, teacher = two(8, 3)
    _, labels = pairs()
    report = objective({"logits": student}, {"logits": teacher}, {"labels": labels})
    fixed = teacher.clone()
    for row, label in enumerate(labels.tolist()):
        best = int(teacher[row].argmax())
        fixed[row, label], fixed[row, best] = teacher[row, best], teacher[row, label]
    torch.testing.assert_close(report.total, F.mse_loss(student, fixed))


def test_start_and_end_logits_have_labels_of_their_own():
    shift: Any = {"loss": kd.losses.ProbabilityShift(kd.losses.LogitMSE())}
    terms = {side: kd.Term(kd.Match(f"{side}_logits", f"{side}_logits"), **shift) for side in ("start", "end")}
    student, teacher = two(2, 4)
    batch = {"start_positions": torch.tensor([0, 1]), "end_positions": torch.tensor([3, 2])}
    features = [{f"{side}_logits": x for side in ("start", "end")} for x in (student, teacher)]
    parts = kd.Objective(terms)(*features, batch).parts
    for side in ("start", "end"):
        alone = shift["loss"](student, teacher, None, batch[f"{side}_positions"])
        torch.testing.assert_close(parts[side], alone)
    assert parts["start"] != parts["end"]


@pytest.mark.parametrize("labels", [None, torch.zeros(5, 1, dtype=torch.long)])
def test_a_shift_needs_labels_that_fit(labels):
    with pytest.raises(MatchError, match="needs a label for each row"):
        losses.ProbabilityShift(losses.LogitMSE())(*two(5, 3), None, labels)


def test_a_shift_needs_labels_that_are_classes():
    with pytest.raises(MatchError, match="needs labels that are classes, and these are numbers"):
        losses.ProbabilityShift(losses.LogitMSE())(*two(5, 3), None, torch.ones(5))


@pytest.mark.parametrize(
    "make",
    [
        lambda: schedules.FLSW(1.0, gamma=-1.0),
        lambda: schedules.CWSM(1.0, floor=0.0),
        lambda: losses.SoftTarget(2.0, 3.0, sample_temperature=schedules.CWSM(1.0)),
    ],
)
def test_options_that_exclude_each_other_are_an_error(make):
    with pytest.raises(ConfigError):
        make()


def limit(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return T²·KL in float64, of centred differences, which do not cancel at any temperature."""
    s, t = student.detach().double() / temperature, teacher.double() / temperature
    p = t.softmax(-1)
    gap = (s - t) - (p * (s - t)).sum(-1, keepdim=True)
    series = gap**2 / 2 + gap**3 / 6 + gap**4 / 24
    above_one = torch.where(gap.abs() < 1e-3, series, gap.expm1() - gap)
    return (temperature**2 * (p * above_one).sum(-1).log1p().mean()).float()


@pytest.mark.parametrize("temperature", [1.0, 8.0, 32.0, 33.0, 1e3, 1e4, 1e6])
def test_divergences_hold_at_any_temperature(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(4, 50, generator=generator) for _ in range(2))
    student.requires_grad_()
    expected = limit(student, teacher, temperature)
    gradient = (student.double() / temperature).softmax(-1) - (teacher.double() / temperature).softmax(-1)
    by_row = schedules.FLSW(beta=0.0, gamma=1.0)
    for loss in (losses.SoftTarget(temperature), losses.SoftTarget(temperature, sample_temperature=by_row)):
        found = loss(student, teacher)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=5e-5, atol=0)
        for same_gradient in (loss, losses.SoftCrossEntropy(temperature)):
            (got,) = torch.autograd.grad(same_gradient(student, teacher), student)
            torch.testing.assert_close(got, (gradient * temperature / 4).float(), rtol=1e-3, atol=1e-6)
    labels = losses.SoftLabels(temperature)(student, teacher)
    two = [torch.stack([x.flatten(), torch.zeros(200)], -1) for x in (student.detach(), teacher)]
    torch.testing.assert_close(labels, limit(*two, temperature), rtol=5e-5, atol=0)


def test_an_ensembles_mean_of_probabilities_holds_at_any_temperature() -> None:
    one, other = torch.tensor([[0.0, 1.0, 3.0]]), torch.tensor([[2.0, 1.0, 0.0]])
    found = mean_probabilities(torch.stack([one, other]), torch.tensor([0.5, 0.5]), 1e5)
    torch.testing.assert_close((found - found[:, :1]).float(), torch.tensor([[0.0, 0.0, 0.5]]), rtol=0, atol=1e-4)


RULED_OUT = [
    losses.LogitMSE(),
    losses.SoftTarget(2.0),
    losses.SoftTarget(2.0, sample_temperature=schedules.FLSW(beta=1.0, gamma=1.0)),
    losses.SoftTarget(2.0, sample_temperature=schedules.CWSM(beta=1.0)),
    losses.SoftCrossEntropy(2.0),
    losses.SoftLabels(2.0),
    losses.ProbabilityShift(losses.LogitMSE()),
    textbrewer.LogitMSE(2.0),
]


@pytest.mark.parametrize("loss", RULED_OUT, ids=lambda loss: str(loss)[:40])
def test_a_class_that_both_models_rule_out_adds_nothing(loss: Any) -> None:
    student, teacher = (
        torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 1.0]]),
        torch.tensor([[2.0, 0.0, 0.5], [1.0, 2.0, 0.0]]),
    )
    given = {"labels": torch.tensor([0, 1])} if isinstance(loss, losses.ProbabilityShift) else {}
    outside = torch.full((2, 1), -torch.inf)
    longer, others = (torch.cat([x, outside], 1).requires_grad_() for x in (student, teacher))
    found, without = loss(longer, others, **given), loss(student, teacher, **given)
    classes = 4 / 3 if isinstance(loss, losses.LogitMSE | losses.SoftLabels | losses.ProbabilityShift) else 1
    classes = 4 / 3 if isinstance(loss, textbrewer.LogitMSE) else classes
    torch.testing.assert_close(found * classes, without)
    (gradient,) = torch.autograd.grad(found, longer)
    assert torch.isfinite(gradient).all()
    assert not gradient[:, 3].any()
    one_sided = loss(longer, torch.cat([teacher, torch.zeros(2, 1)], 1), **given)
    assert one_sided == torch.inf or torch.isfinite(one_sided)  # never a NaN


def test_a_label_that_is_ruled_out_and_wrong_adds_nothing() -> None:
    logits = torch.tensor([[1.0, -torch.inf, 2.0]], requires_grad=True)
    found = losses.HardLabels()(logits, torch.tensor([[1.0, 0.0, 0.0]]))
    torch.testing.assert_close(3 * found, 2 * losses.HardLabels()(logits[:, [0, 2]], torch.tensor([[1.0, 0.0]])))
    assert torch.isfinite(torch.autograd.grad(found, logits)[0]).all()
    assert losses.HardLabels()(logits, torch.tensor([[1.0, 1.0, 0.0]])) == torch.inf
    torch.testing.assert_close(losses.HardLabel()(logits, torch.tensor([0])), logits[0, [0, 2]].logsumexp(0) - 1.0)


def test_confidence_of_a_teacher_that_rules_a_class_out() -> None:
    shares = confidence(torch.tensor([[[0.0, 0.0, -torch.inf]], [[0.0, 0.0, -torch.inf]]]))
    torch.testing.assert_close(shares, torch.full((2, 1, 1), 0.5))
