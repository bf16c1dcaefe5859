"""Options and shapes that cannot be meant are refused in one sentence that names the way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kd_lightning import losses
from kd_lightning.core.errors import ConfigError, MatchError

BAD_OPTIONS: list[tuple[Callable[[], Any], str]] = [
    (lambda: losses.SoftTarget(kind="mse"), "Expected argument `kind` to be one of 'kl', 'ce' but got 'mse'."),
    (
        lambda: losses.SoftTarget(compat="tb"),
        "Expected argument `compat` to be one of None, 'textbrewer' but got 'tb'.",
    ),
    (
        lambda: losses.SoftTarget(temperature=0.0),
        "Expected argument `temperature` to be positive and finite but got 0.0",
    ),
    (lambda: losses.SoftTarget(teacher_temperature=-1.0), "`teacher_temperature` to be positive"),
    (lambda: losses.SoftTarget(temperature=float("nan")), "`temperature` to be positive and finite but got nan"),
    (lambda: losses.SoftTarget(compat="textbrewer"), 'compat="textbrewer" needs kind="ce"'),
    (lambda: losses.SoftTarget(kind="ce", compat="textbrewer", multilabel=True), "softmax cross entropy only"),
    (lambda: losses.SoftTarget(regression=True, multilabel=True), "regression=True goes without multilabel"),
    (lambda: losses.HardLabel(regression=True, label_smoothing=0.1), "regression=True goes without multilabel"),
    (lambda: losses.LogitMSE(temperature=2.0), 'does not depend on it unless compat="textbrewer"'),
    (lambda: losses.HardLabel(label_smoothing=1.0), r"`label_smoothing` to be in \[0, 1\) but got 1.0"),
    (lambda: losses.PKD(compat=True), "`compat` to be one of"),
    (lambda: losses.NST(compat="mmd"), "`compat` to be one of"),
    (lambda: losses.AttentionMSE(compat="x"), "`compat` to be one of"),
    (lambda: losses.AttentionCE(inputs="logits"), "`inputs` to be one of 'probabilities', 'scores' but got 'logits'"),
    (lambda: losses.AttentionKL(inputs="raw"), "`inputs` to be one of"),
    (lambda: losses.SelfRelation(relation_heads=0), "`relation_heads` to be at least 1 but got 0"),
]


@pytest.mark.parametrize(("build", "sentence"), BAD_OPTIONS, ids=range(len(BAD_OPTIONS)))
def test_an_unknown_option_is_an_error_that_lists_the_choices(build: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        build()


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


BAD_SHAPES: list[tuple[torch.nn.Module, tuple[Any, ...], str]] = [
    (losses.SoftTarget(), (zeros(2, 3), zeros(2, 4)), r"\(2, 3\).*\(2, 4\).*same number of labels"),
    (losses.SoftTarget(), (zeros(2, 3), zeros(1, 3)), r"\(2, 3\).*\(1, 3\).*same batch"),
    (losses.SoftTarget(), (zeros(2, 3), zeros(2, 3), zeros(2, 7)), r"mask of shape \(2, 7\).*\(2, 3\)"),
    (losses.SoftTarget(), (zeros(2, 1), zeros(2, 1)), r"\(2, 1\).*one class.*multilabel=True.*regression=True"),
    (losses.SoftTarget(kind="ce", compat="textbrewer"), (zeros(2, 1), zeros(2, 1), zeros(2, 9)), "one class"),
    (losses.SoftTarget(), (zeros(2, 5, 1), zeros(2, 5, 1), zeros(2, 5)), r"\(2, 5, 1\).*one class"),
    (losses.LogitMSE(), (zeros(2, 3), zeros(2, 4)), "LogitMSE needs equal shapes"),
    (
        losses.HardLabel(),
        (zeros(2, 3), zeros(2, 1)),
        r"\(2, 3\) and labels of shape \(2, 1\): .* must have shape \(2,\)",
    ),
    (losses.HardLabel(), (zeros(2, 3), zeros(2, 3)), "multilabel=True"),
    (losses.HardLabel(regression=True), (zeros(2, 3), zeros(2)), r"one value per row.*\(2, 3\)"),
    (losses.HardLabel(multilabel=True), (zeros(2, 3), zeros(2)), r"must have shape \(2, 3\)"),
    (losses.HardLabel(), (zeros(2, 3), zeros(2), zeros(2, 5)), r"mask of shape \(2, 5\)"),
    (losses.Identity(), (zeros(2),), r"Identity passes on a scalar.*\(2,\)"),
    (losses.HiddenMSE(), (zeros(2, 3, 4), zeros(2, 3, 8)), r"\(2, 3, 4\).*\(2, 3, 8\).*projection='linear'"),
    (losses.HiddenMSE(), (zeros(2, 3, 4), zeros(2, 5, 4)), r"\(2, 3, 4\).*\(2, 5, 4\).*same tokens"),
    (losses.HiddenMSE(), (zeros(2, 3, 4), zeros(2, 3, 4), zeros(2, 5)), r"mask of shape \(2, 5\).*\(2, 3, 4\)"),
    (losses.HiddenCosine(), (zeros(2, 3, 4), zeros(2, 3, 8)), "HiddenCosine.*projection='linear'"),
    (losses.PKD(), (zeros(2, 4), zeros(2, 8)), "PKD.*projection='linear'"),
    (
        losses.FSP(),
        (zeros(2, 3, 4), zeros(2, 3, 4)),
        'one tensor from the student.*student=\\("hidden.0", "hidden.1"\\)',
    ),
    (losses.FSP(), ((zeros(2, 3, 4),) * 2, (zeros(2, 3, 4),) * 3), "3 tensors from the teacher"),
    (losses.FSP(), ((zeros(2, 3, 4),) * 2, (zeros(2, 3, 8),) * 2), "FSP.*projection='linear'"),
    (losses.NST(), (zeros(2, 3, 4), zeros(2, 3, 4)), "NST relates two layers"),
    (losses.NST(), ((zeros(2, 3, 4),) * 2, (zeros(2, 5, 4),) * 2), "NST.*same tokens"),
    (losses.NST(), ((zeros(2, 3, 4),) * 2, (zeros(2, 3, 8),) * 2, zeros(2, 4)), "NST got a mask"),
    (
        losses.AttentionMSE(),
        (zeros(2, 2, 3, 3), zeros(2, 4, 3, 3)),
        r"\(2, 2, 3, 3\).*\(2, 4, 3, 3\).*AttentionMSEMean",
    ),
    (losses.AttentionCE(), (zeros(2, 2, 3, 3), zeros(2, 4, 3, 3)), "AttentionCE.*head counts differ"),
    (losses.AttentionKL(), (zeros(2, 2, 3, 3), zeros(2, 4, 3, 3)), "AttentionKL.*SelfRelation"),
    (losses.AttentionMSEMean(), (zeros(2, 2, 3, 3), zeros(2, 4, 5, 5)), "same tokens"),
    (losses.AttentionCE(compat="textbrewer"), (zeros(2, 2, 3, 3), zeros(2, 4, 3, 3)), "head counts differ"),
    (losses.AttentionMSE(), (zeros(2, 2, 3, 3), zeros(2, 2, 3, 3), zeros(2, 4)), r"mask of shape \(2, 4\)"),
    (losses.AttentionMSE(), (zeros(2, 2, 3, 5), zeros(2, 2, 3, 5), zeros(2, 3)), "queries and keys alike"),
    (losses.SelfRelation(), (zeros(2, 2, 3, 4), zeros(2, 2, 5, 4)), r"\(2, 2, 3, 4\).*\(2, 2, 5, 4\)"),
    (losses.SelfRelation(), (zeros(2, 3, 4), zeros(2, 3, 4)), r"needs tensors \(B, H, L, D\)"),
    (losses.SelfRelation(5), (zeros(2, 2, 3, 4), zeros(2, 2, 3, 5)), r"the student's width 8.*\(2, 2, 3, 4\).*into 5"),
    (losses.SelfRelation(), (zeros(2, 2, 3, 4), zeros(2, 2, 3, 4), zeros(2, 4)), "SelfRelation got a mask"),
]


@pytest.mark.parametrize(("loss", "arguments", "sentence"), BAD_SHAPES, ids=range(len(BAD_SHAPES)))
def test_shapes_that_do_not_fit_are_an_error_that_names_both(
    loss: torch.nn.Module, arguments: tuple[Any, ...], sentence: str
) -> None:
    with pytest.raises(MatchError, match=sentence) as error:
        loss(*arguments)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


def test_only_losses_that_compare_widths_ask_for_equal_ones() -> None:
    asking = {name for name in losses.__all__ if getattr(losses, name).equal_widths is True}
    assert asking == {"HiddenMSE", "HiddenCosine", "PKD", "FSP", "SoftTarget", "LogitMSE", "ProbabilityShift"}
    assert losses.EMD(losses.HiddenMSE()).equal_widths  # as its inner loss
    assert not losses.EMD(losses.AttentionMSE()).equal_widths


def test_repr_shows_the_options() -> None:
    shown = "SoftTarget(temperature=2.0, kind='kl', multilabel=False, regression=False, scaled=True)"
    assert repr(losses.SoftTarget(2.0)) == shown
