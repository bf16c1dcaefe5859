"""`compat.textbrewer`, and what our docstrings call the same: TextBrewer's own functions, value and gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from textbrewer import losses as theirs
from torch import Tensor

from kd_lightning import losses as ours
from kd_lightning.compat import textbrewer as tb

from .cases import Sample, attention, hidden, layer_pair, logits, scores, token_logits

# TextBrewer divides by zero for samples that are all padding.
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]])
LEFT = MASK.flip(1)


@dataclass(frozen=True)
class Pair:
    """A TextBrewer function, our loss for it, and the inputs of both."""

    name: str
    theirs: Callable[..., Tensor]
    ours: torch.nn.Module
    sample: Callable[[int], Sample]

    def __str__(self) -> str:
        return self.name


LOGITS = [
    Pair("ce", theirs.kd_ce_loss, tb.SoftCrossEntropy(temperature=4.0), logits),
    Pair("mse", theirs.kd_mse_loss, tb.LogitMSE(temperature=4.0), logits),
]

FEATURES = [
    Pair("hidden_mse", theirs.hid_mse_loss, ours.HiddenMSE(), hidden),
    Pair("cos", theirs.cos_loss, ours.HiddenCosine(), hidden),
    Pair("pkd", theirs.pkd_loss, tb.PKD(), hidden),
    Pair("fsp", theirs.fsp_loss, ours.FSP(), layer_pair),
    Pair("nst", theirs.mmd_loss, tb.NST(), partial(layer_pair, student=(3, 3), teacher=(5, 5))),
    Pair("attention_mse", theirs.att_mse_loss, tb.AttentionMSE(), attention),
    Pair("attention_mse_scores", theirs.att_mse_loss, tb.AttentionMSE(), scores),
    Pair("attention_mse_sum", theirs.att_mse_sum_loss, tb.AttentionMSESum(), partial(scores, student_heads=3)),
    Pair("attention_ce", theirs.att_ce_loss, tb.AttentionCE(), attention),
    Pair("attention_ce_scores", theirs.att_ce_loss, tb.AttentionCE(), scores),
    Pair("attention_ce_mean", theirs.att_ce_mean_loss, tb.AttentionCEMean(), partial(scores, student_heads=3)),
]


def assert_same(expected: Callable[..., Tensor], loss: Callable[..., Tensor], sample: Sample) -> None:
    results = []
    for function in (expected, loss):
        fresh = replace(sample, student=[x.detach().clone().requires_grad_() for x in sample.student])
        value = fresh.apply(function)
        results.append((value.detach(), *torch.autograd.grad(value, fresh.student)))
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("pair", FEATURES, ids=str)
@pytest.mark.parametrize("mask", [None, MASK, LEFT], ids=["no mask", "right padding", "left padding"])
@pytest.mark.parametrize("seed", [0, 1])
def test_feature_losses_equal_textbrewer(pair: Pair, mask: Tensor | None, seed: int) -> None:
    assert_same(pair.theirs, pair.ours, replace(pair.sample(seed).double(), mask=mask))


@pytest.mark.parametrize("pair", LOGITS, ids=str)
@pytest.mark.parametrize("sample", [logits, lambda seed: replace(token_logits(seed), mask=None)], ids=["2-D", "3-D"])
def test_logits_losses_equal_textbrewer(pair: Pair, sample: Callable[[int], Sample]) -> None:
    assert_same(partial(pair.theirs, temperature=4.0), pair.ours, sample(0).double())


@pytest.mark.parametrize("pair", LOGITS, ids=str)
def test_masked_token_logits_equal_textbrewer_on_the_selected_tokens(pair: Pair) -> None:
    def selected(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        return pair.theirs(student[mask.bool()], teacher[mask.bool()], temperature=4.0)

    assert_same(selected, pair.ours, replace(token_logits(0).double(), mask=MASK))


@pytest.mark.parametrize("pair", LOGITS, ids=str)
def test_a_mask_over_positions_means_nothing_to_textbrewer(pair: Pair) -> None:
    def unmasked(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        return pair.theirs(student, teacher, temperature=4.0)

    sample = Sample(*([torch.randn(4, 4, dtype=torch.float64)] for _ in range(2)), MASK)
    assert_same(unmasked, pair.ours, sample)
    assert sample.apply(pair.ours.count) == 4


def test_the_documented_ratios_hold() -> None:
    z = logits(0).double().sides()
    assert ours.SoftCrossEntropy(4.0)(*z) == pytest.approx(16 * tb.SoftCrossEntropy(4.0)(*z))
    assert ours.LogitMSE()(*z) == pytest.approx(16 * tb.LogitMSE(temperature=4.0)(*z))
    pair = layer_pair(0, (3, 3), (3, 3)).double()
    assert pair.apply(tb.NST()) == pytest.approx(pair.apply(ours.NST()) * 3**2 / 4**2)
    maps = scores(0).double()
    assert maps.apply(ours.AttentionMSESum()) == pytest.approx(2**2 * maps.apply(ours.AttentionMSEMean()))
