"""The table of losses: one row each, with its inputs and the oracle it is compared with."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from kd_lightning import losses, schedules
from kd_lightning.compat import textbrewer

from . import oracles
from .image_cases import IMAGES
from .loss_case import LossCase, case
from .samples import (
    MASK,
    POSITIONS,
    ROW_LABELS,
    TOKEN_LABELS,
    Sample,
    attention,
    crossed_layers,
    heads,
    hidden,
    labelled,
    labelled_spans,
    labelled_tokens,
    layer_pair,
    logits,
    multilabelled,
    multilabelled_tokens,
    scalar,
    scores,
    span_logits,
    token_logits,
    valued,
    values,
    with_labels,
)

__all__ = [
    "BY_CLASS",
    "CASES",
    "DIFFERENTIABLE",
    "FIRST",
    "MASK",
    "LossCase",
    "Sample",
    "attention",
    "hidden",
    "layer_pair",
    "logits",
    "scores",
    "token_logits",
]


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
    case("annealed_logits", losses.AnnealedLogits, oracles.annealed_logits(0.1), logits),
    case(
        "annealed_logits_tokens", losses.AnnealedLogits, oracles.annealed_logits(0.25), token_logits, max_temperature=4
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
    *IMAGES,
]

FIRST = {row.loss.func: row for row in reversed(CASES)}
BY_CLASS = [pytest.param(row, marks=[] if row is FIRST[row.loss.func] else pytest.mark.slow) for row in CASES]
"""For what takes long: the first case of each class is fast; options of a class are of the same few operations."""

DIFFERENTIABLE = [
    pytest.param(row, marks=[] if row is FIRST[row.loss.func] else pytest.mark.slow)
    for row in CASES
    if not row.detached
]
"""The same without those whose gradient is not the value's: weights of rows are detached."""
