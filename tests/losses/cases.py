"""The table of losses: one row each, with its inputs and the oracle it is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from kd_lightning import losses, schedules
from kd_lightning.compat import textbrewer

from . import oracles

BATCH, LENGTH, CLASSES, WIDTH, HEADS = 4, 4, 3, 4, 2
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]])
"""Full, right padded, padded on both sides, empty."""


@dataclass(frozen=True)
class Sample:
    """What a loss is called with. `student` and `teacher` are lists of one tensor, or of two for a pair of layers."""

    student: list[Tensor]
    teacher: list[Tensor]
    mask: Tensor | None = None
    padding: Callable[[Tensor], Tensor] | None = None
    labels: Tensor | None = None

    def arguments(self) -> tuple[Any, ...]:
        sides = [tuple(side) if len(side) == 2 else side[0] for side in (self.student, self.teacher)]
        if self.labels is not None:
            return (*sides, self.mask, self.labels)
        return (*sides, *([] if self.mask is None else [self.mask]))

    def map(self, function: Callable[[Tensor], Tensor]) -> Sample:
        """Apply a function to all floating tensors."""
        sides = [[function(x) if x.is_floating_point() else x for x in side] for side in (self.student, self.teacher)]
        return replace(self, student=sides[0], teacher=sides[1])

    def double(self) -> Sample:
        return self.map(lambda x: x.detach().double())

    def requires_grad(self) -> Sample:
        return self.map(lambda x: x.detach().clone().requires_grad_())

    def slice(self, part: slice | Tensor) -> Sample:
        mask = None if self.mask is None else self.mask[part]
        padding = self.padding and partial(_padding_of, kind=self.padding.keywords["kind"], mask=mask)
        labels = None if self.labels is None else self.labels[part]
        return Sample([x[part] for x in self.student], [x[part] for x in self.teacher], mask, padding, labels)


def _padding_of(x: Tensor, kind: str, mask: Tensor) -> Tensor:
    """Return which entries of a tensor are padding, by what its axes mean."""
    pad = ~mask.bool()
    if kind == "span":
        return pad.expand_as(x)
    if kind in ("tokens", "hidden"):
        return pad[..., None].expand_as(x)
    if kind == "attention":
        return (pad[:, None, :, None] | pad[:, None, None, :]).expand_as(x)
    return pad[:, None, :, None].expand_as(x)


def _float_sides(seed: int, student: list[tuple[int, ...]], teacher: list[tuple[int, ...]]) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda shape: torch.randn(shape, generator=generator)  # noqa: E731
    return [draw(shape) for shape in student], [draw(shape) for shape in teacher]


def _sample(kind: str, student: list[Tensor], teacher: list[Tensor], masked: bool = True) -> Sample:
    mask = MASK if masked else None
    return Sample(student, teacher, mask, partial(_padding_of, kind=kind, mask=MASK) if masked else None)


def scalar(seed: int) -> Sample:
    return Sample(*_float_sides(seed, [()], [()]))


def logits(seed: int) -> Sample:
    return Sample(*_float_sides(seed, [(BATCH, CLASSES)], [(BATCH, CLASSES)]))


def token_logits(seed: int) -> Sample:
    shape = (BATCH, LENGTH, CLASSES)
    return _sample("tokens", *_float_sides(seed, [shape], [shape]))


def span_logits(seed: int) -> Sample:
    shape = (BATCH, LENGTH)
    return _sample("span", *_float_sides(seed, [shape], [shape]))


ROW_LABELS = torch.tensor([2, -100, 0, 1])
TOKEN_LABELS = torch.tensor([[0, 1, -100, 2], [2, 2, 1, 0], [1, -100, 0, 2], [0, 1, 2, 0]])
POSITIONS = torch.tensor([3, 0, 2, 1])


def with_labels(seed: int, sample: Callable[[int], Sample], labels: Tensor) -> Sample:
    return replace(sample(seed), labels=labels)


def labelled(seed: int) -> Sample:
    student, _ = _float_sides(seed, [(BATCH, CLASSES)], [])
    return Sample(student, [torch.tensor([2, -100, 0, 1])])


def labelled_tokens(seed: int) -> Sample:
    student, _ = _float_sides(seed, [(BATCH, LENGTH, CLASSES)], [])
    labels = torch.tensor([[0, 1, -100, 2], [2, 2, 1, 0], [1, -100, 0, 2], [0, 1, 2, 0]])
    return _sample("tokens", student, [labels])


def labelled_spans(seed: int) -> Sample:
    student, _ = _float_sides(seed, [(BATCH, LENGTH)], [])
    return _sample("span", student, [torch.tensor([3, 0, LENGTH, 1])])


def valued(seed: int) -> Sample:
    student, _ = _float_sides(seed, [(BATCH, 1)], [])
    return Sample(student, [torch.tensor([0.5, 5.0, -100.0, 2.25])])


def values(seed: int) -> Sample:
    return Sample(*_float_sides(seed, [(BATCH, 1)], [(BATCH, 1)]))


def multilabelled(seed: int) -> Sample:
    student, _ = _float_sides(seed, [(BATCH, CLASSES)], [])
    return Sample(student, [torch.tensor([[0, 1, 1], [1, -100, 0], [0, 0, 0], [-100, -100, 1]])])


def multilabelled_tokens(seed: int) -> Sample:
    student, _ = _float_sides(seed, [(BATCH, LENGTH, CLASSES)], [])
    labels = torch.randint(0, 2, (BATCH, LENGTH, CLASSES), generator=torch.Generator().manual_seed(seed))
    return _sample("tokens", student, [labels])


def hidden(seed: int, masked: bool = True) -> Sample:
    shape = (BATCH, LENGTH, WIDTH)
    return _sample("hidden", *_float_sides(seed, [shape], [shape]), masked=masked)


def layer_pair(seed: int, student: tuple[int, int] = (3, 4), teacher: tuple[int, int] = (3, 4)) -> Sample:
    sides = _float_sides(seed, *([(BATCH, LENGTH, width) for width in widths] for widths in (student, teacher)))
    return _sample("hidden", *sides)


def crossed_layers(seed: int) -> Sample:
    """The student's first layer resembles the teacher's second, and the other way round, on every row."""
    shape = (BATCH, LENGTH, WIDTH)
    (first, second), noise = _float_sides(seed, [shape, shape], [shape, shape])
    near = [x + 0.3 * y for x, y in zip((second + 9, first - 9), noise, strict=True)]
    return _sample("hidden", [first - 9, second + 9], near)


def scores(seed: int, student_heads: int = HEADS, masked: bool = True) -> Sample:
    shapes = [[(BATCH, heads, LENGTH, LENGTH)] for heads in (student_heads, HEADS)]
    return _sample("attention", *_float_sides(seed, *shapes), masked=masked)


def attention(seed: int, student_heads: int = HEADS, masked: bool = True) -> Sample:
    """Probabilities as a model gives them: rows sum to one over the unmasked keys."""
    raw = scores(seed, student_heads, masked)
    if not masked:
        return raw.map(lambda x: x.softmax(-1))
    # An empty row is uniform.
    return raw.map(lambda x: x.masked_fill(~MASK.bool()[:, None, None, :], -1e4).softmax(-1))


def heads(seed: int) -> Sample:
    """Queries, keys or values: fewer and narrower heads in the student."""
    return _sample("heads", *_float_sides(seed, [(BATCH, 2, LENGTH, 2)], [(BATCH, 4, LENGTH, 3)]))


@dataclass(frozen=True)
class LossCase:
    """One row: a loss with its options, the inputs it gets, and its oracle."""

    name: str
    build: partial[losses.DistillationLoss]
    oracle: oracles.Oracle
    sample: Callable[[int], Sample]

    def __str__(self) -> str:
        return self.name

    options: dict[str, Any]

    def config(self) -> dict[str, Any]:
        return _node(partial(self.build.func, **self.options))


def _node(part: Any) -> Any:
    """Return a partial as a node of a configuration."""
    if not isinstance(part, partial):
        return part
    target = f"{part.func.__module__}.{part.func.__qualname__}"
    return {"_target_": target, **{key: _node(value) for key, value in part.keywords.items()}}


def case(name: str, loss: type, oracle: oracles.Oracle, sample: Callable[[int], Sample], /, **options: Any) -> LossCase:
    """Return a row; options that are partials are made anew for each loss."""
    made = {key: value() if isinstance(value, partial) else value for key, value in options.items()}
    return LossCase(name, partial(loss, **made), oracle, sample, options)


def textbrewer_ce_mean(student: Any, teacher: Any, mask: Any) -> float:
    """TextBrewer's order: mean over heads first, softmax second."""
    student, teacher = (oracles.combine_heads(maps, "mean") for maps in (student, teacher))
    return oracles.attention_divergence(scores=True)(student, teacher, mask)


textbrewer_ce = oracles.soft_target(4.0, kind="ce", squared=False)

CASES = [
    case("hard_label", losses.HardLabel, oracles.hard_label(), labelled),
    case("hard_label_smoothed", losses.HardLabel, oracles.hard_label(0.1), labelled, label_smoothing=0.1),
    case("hard_label_tokens", losses.HardLabel, oracles.hard_label(), labelled_tokens),
    case("hard_label_spans", losses.HardLabel, oracles.hard_label(), labelled_spans),
    case("hard_label_spans_smoothed", losses.HardLabel, oracles.hard_label(0.2), labelled_spans, label_smoothing=0.2),
    case("hard_labels", losses.HardLabels, oracles.hard_labels(), multilabelled),
    case(
        "hard_labels_smoothed",
        losses.HardLabels,
        oracles.hard_labels(0.1),
        multilabelled_tokens,
        label_smoothing=0.1,
    ),
    case("label_mse", losses.LabelMSE, oracles.label_mse(), valued),
    case("identity", losses.Identity, oracles.identity, scalar),
    case("soft_target", losses.SoftTarget, oracles.soft_target(4.0), logits, temperature=4.0),
    case("soft_target_tokens", losses.SoftTarget, oracles.soft_target(0.5), token_logits, temperature=0.5),
    case(
        "soft_cross_entropy_unscaled",
        losses.SoftCrossEntropy,
        oracles.soft_target(4.0, kind="ce", squared=False),
        span_logits,
        temperature=4.0,
        scaled=False,
    ),
    case("logit_mse_values", losses.LogitMSE, oracles.logit_mse(), values, temperature=4.0, scaled=False),
    case("soft_target_spans", losses.SoftTarget, oracles.soft_target(2.0), span_logits, temperature=2.0),
    case(
        "soft_target_two_temperatures",
        losses.SoftTarget,
        oracles.soft_target(2.0, 3.0),
        token_logits,
        temperature=2.0,
        teacher_temperature=3.0,
    ),
    case(
        "soft_cross_entropy",
        losses.SoftCrossEntropy,
        oracles.soft_target(2.0, kind="ce"),
        logits,
        temperature=2.0,
    ),
    case("soft_cross_entropy_textbrewer", textbrewer.SoftCrossEntropy, textbrewer_ce, token_logits, temperature=4.0),
    case("soft_labels", losses.SoftLabels, oracles.soft_labels(2.0), token_logits, temperature=2.0),
    case(
        "soft_labels_unscaled",
        losses.SoftLabels,
        oracles.soft_labels(2.0, squared=False),
        logits,
        temperature=2.0,
        scaled=False,
    ),
    case(
        "soft_target_annealed",
        losses.SoftTarget,
        oracles.soft_target(4.0),
        logits,
        temperature=2.0,
        temperature_schedule=partial(schedules.Constant, factor=2.0),
    ),
    case(
        "probability_shift",
        losses.ProbabilityShift,
        oracles.shifted(oracles.soft_target(2.0), ROW_LABELS),
        partial(with_labels, sample=logits, labels=ROW_LABELS),
        loss=partial(losses.SoftTarget, temperature=2.0),
    ),
    case(
        "probability_shift_tokens",
        losses.ProbabilityShift,
        oracles.shifted(oracles.logit_mse(), TOKEN_LABELS),
        partial(with_labels, sample=token_logits, labels=TOKEN_LABELS),
        loss=partial(losses.LogitMSE),
    ),
    case(
        "probability_shift_spans",
        losses.ProbabilityShift,
        oracles.shifted(oracles.soft_target(2.0), POSITIONS),
        partial(with_labels, sample=span_logits, labels=POSITIONS),
        loss=partial(losses.SoftTarget, temperature=2.0),
    ),
    case("logit_mse", losses.LogitMSE, oracles.logit_mse(), logits),
    case("logit_mse_tokens", losses.LogitMSE, oracles.logit_mse(), token_logits),
    case("logit_mse_spans", losses.LogitMSE, oracles.logit_mse(), span_logits),
    case("logit_mse_textbrewer", textbrewer.LogitMSE, oracles.logit_mse(2.0), logits, temperature=2.0),
    case(
        "logit_mse_annealed",
        textbrewer.LogitMSE,
        oracles.logit_mse(4.0),
        token_logits,
        temperature=2.0,
        temperature_schedule=partial(schedules.Constant, factor=2.0),
    ),
    case("hidden_mse", losses.HiddenMSE, oracles.hidden_mse, hidden),
    case("hidden_mse_unmasked", losses.HiddenMSE, oracles.hidden_mse, partial(hidden, masked=False)),
    case("hidden_cosine", losses.HiddenCosine, oracles.hidden_cosine, hidden),
    case("pkd", losses.PKD, oracles.pkd, hidden),
    case("pkd_textbrewer", textbrewer.PKD, oracles.pkd, partial(hidden, masked=False)),
    case("fsp", losses.FSP, oracles.fsp, layer_pair),
    case("nst", losses.NST, oracles.nst(), partial(layer_pair, student=(3, 3), teacher=(5, 5))),
    case(
        "nst_textbrewer",
        textbrewer.NST,
        oracles.nst(by_length=True),
        partial(layer_pair, student=(3, 3), teacher=(5, 5)),
    ),
    case(
        "emd",
        losses.EMD,
        oracles.emd(oracles.hidden_mse),
        crossed_layers,
        loss=partial(losses.HiddenMSE),
        student_layers=2,
        teacher_layers=2,
        temperature=None,
    ),
    case("attention_mse", losses.AttentionMSE, oracles.attention_mse(), attention),
    case("attention_mse_scores", losses.AttentionMSE, oracles.attention_mse(), partial(scores, masked=False)),
    case(
        "attention_mse_mean",
        losses.AttentionMSEMean,
        oracles.attention_mse("mean"),
        partial(attention, student_heads=3),
    ),
    case("attention_mse_sum", losses.AttentionMSESum, oracles.attention_mse("sum"), partial(scores, student_heads=3)),
    case("attention_ce", losses.AttentionCE, oracles.attention_divergence(), attention),
    case("attention_ce_scores", losses.AttentionCE, oracles.attention_divergence(scores=True), scores, inputs="scores"),
    case(
        "attention_ce_textbrewer",
        textbrewer.AttentionCE,
        oracles.attention_divergence(scores=True),
        partial(attention, masked=False),
    ),
    case(
        "attention_ce_mean",
        losses.AttentionCEMean,
        oracles.attention_divergence(heads="mean"),
        partial(attention, student_heads=3),
    ),
    case(
        "attention_ce_mean_scores",
        losses.AttentionCEMean,
        oracles.attention_divergence(scores=True, heads="mean"),
        partial(scores, student_heads=3),
        inputs="scores",
    ),
    case(
        "attention_mse_textbrewer",
        textbrewer.AttentionMSE,
        oracles.attention_mse(),
        partial(attention, masked=False),
    ),
    case(
        "attention_mse_sum_textbrewer",
        textbrewer.AttentionMSESum,
        oracles.attention_mse("sum"),
        partial(attention, masked=False),
    ),
    case(
        "attention_ce_mean_textbrewer",
        textbrewer.AttentionCEMean,
        textbrewer_ce_mean,
        partial(attention, masked=False),
    ),
    case("attention_kl", losses.AttentionKL, oracles.attention_divergence("kl"), attention),
    case(
        "attention_kl_scores",
        losses.AttentionKL,
        oracles.attention_divergence("kl", scores=True),
        scores,
        inputs="scores",
    ),
    case("self_relation", losses.SelfRelation, oracles.self_relation(4), heads),
    case("self_relation_two_heads", losses.SelfRelation, oracles.self_relation(2), heads, relation_heads=2),
]

FIRST = {row.build.func: row for row in reversed(CASES)}
BY_CLASS = [pytest.param(row, marks=[] if row is FIRST[row.build.func] else pytest.mark.slow) for row in CASES]
"""For what takes long: the first case of each class is fast; options of a class are of the same few operations."""
