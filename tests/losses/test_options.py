"""Options and shapes that do not fit raise an error of one sentence that names the way out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import reduce
from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

import kd_lightning as kd
from kd_lightning import losses, schedules
from kd_lightning.cli.checks import check_targets
from kd_lightning.compat import textbrewer
from kd_lightning.core.errors import ConfigError, MatchError

BAD_OPTIONS: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: losses.SoftTarget(temperature=0.0),
        "Expected argument `temperature` to be positive and finite but got 0.0",
    ),
    (lambda: losses.SoftTarget(teacher_temperature=-1.0), "`teacher_temperature` to be positive"),
    (lambda: losses.SoftTarget(temperature=float("nan")), "`temperature` to be positive and finite but got nan"),
    (lambda: losses.LogitMSE(temperature=0.0), "`temperature` to be positive"),
    (lambda: losses.SoftTarget(2.0, 3.0, sample_temperature=schedules.CWSM(1.0)), "leave teacher_temperature out"),
    (lambda: losses.HardLabel(label_smoothing=1.0), r"`label_smoothing` to be in \[0, 1\) but got 1.0"),
    (lambda: losses.HardLabels(label_smoothing=-0.1), r"`label_smoothing` to be in \[0, 1\) but got -0.1"),
    (lambda: losses.ProbabilityShift(losses.LogitMSE), "`loss` of ProbabilityShift to be a loss such as HiddenMSE"),
    (lambda: losses.EMD(losses.EMD(losses.HiddenMSE())), "`loss` of EMD to be a loss between two layers"),
    (lambda: losses.AttentionCE(inputs="logits"), "`inputs` to be one of 'probabilities', 'scores' but got 'logits'"),
    (lambda: losses.AttentionKL(inputs="raw"), "`inputs` to be one of"),
    (lambda: losses.SelfRelation(relation_heads=0), "`relation_heads` to be at least 1 but got 0"),
]


REMOVED: list[tuple[type, str, str]] = [
    (losses.SoftTarget, "kind", "kd.losses.SoftCrossEntropy"),
    (losses.SoftTarget, "scaled", "kd.losses.SoftCrossEntropy"),
    (losses.SoftTarget, "multilabel", "kd.losses.SoftLabels"),
    (losses.SoftTarget, "regression", "kd.losses.LogitMSE"),
    (losses.SoftTarget, "compat", "kd.compat.textbrewer.SoftCrossEntropy"),
    (losses.HardLabel, "multilabel", "kd.losses.HardLabels"),
    (losses.HardLabel, "regression", "kd.losses.LabelMSE"),
    (losses.LogitMSE, "compat", "kd.compat.textbrewer.LogitMSE"),
    (losses.LogitMSE, "temperature_schedule", "kd.compat.textbrewer.LogitMSE"),
    (losses.LogitMSE, "sample_temperature", "kd.compat.textbrewer.LogitMSE"),
    *(
        (getattr(losses, name), "compat", f"kd.compat.textbrewer.{name}")
        for name in ("PKD", "NST", "AttentionMSE", "AttentionMSESum", "AttentionCE", "AttentionCEMean")
    ),
]


@pytest.mark.parametrize(("loss", "name", "instead"), REMOVED, ids=lambda x: getattr(x, "__name__", x))
def test_an_argument_of_earlier_versions_names_the_class_to_use(loss: type, name: str, instead: str) -> None:
    words = f"{loss.__name__} has no argument `{name}` .*Use {instead}"
    with pytest.raises(ConfigError, match=words):
        loss(**{name: True})
    node = {"_target_": f"{loss.__module__}.{loss.__name__}", name: True}
    check_targets(OmegaConf.create({"loss": node}))  # reaches the constructor from configurations too
    with pytest.raises(InstantiationException, match=words):
        instantiate(node)
    assert callable(reduce(getattr, instead.removeprefix("kd.").split("."), kd))


@pytest.mark.parametrize("loss", dict.fromkeys(loss for loss, _, _ in REMOVED))
def test_a_mistyped_argument_is_an_error_that_names_the_nearest(loss: type) -> None:
    options = [name for name in inspect.signature(loss).parameters if name != "removed"] or ["temperature"]
    advice = f"Closest: {options[0]}" if options != ["temperature"] or "Soft" in loss.__name__ else "nothing to choose"
    with pytest.raises(ConfigError, match=f"has no argument `{options[0]}x` .*{advice}"):
        loss(**{f"{options[0]}x": 1.0})


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
    (losses.SoftTarget(), (zeros(2, 1), zeros(2, 1)), r"\(2, 1\).*one class.*SoftLabels.*LogitMSE"),
    (textbrewer.SoftCrossEntropy(), (zeros(2, 1), zeros(2, 1), zeros(2, 9)), "one class"),
    (losses.SoftTarget(), (zeros(2, 5, 1), zeros(2, 5, 1), zeros(2, 5)), r"\(2, 5, 1\).*one class"),
    (losses.LogitMSE(), (zeros(2, 3), zeros(2, 4)), "LogitMSE needs equal shapes"),
    (
        losses.HardLabel(),
        (zeros(2, 3), zeros(2, 1)),
        r"\(2, 3\) and labels of shape \(2, 1\): .* must have shape \(2,\)",
    ),
    (losses.HardLabel(), (zeros(2, 3), zeros(2, 3)), "HardLabels"),
    (losses.HardLabel(), (zeros(2, 3), zeros(2)), "got other floats: use LabelMSE"),
    (losses.LabelMSE(), (zeros(2, 3), zeros(2)), r"one value and one label per row.*\(2, 3\)"),
    (losses.LabelMSE(), (zeros(2, 1), zeros(2, 1)), r"labels of shape \(2, 1\)"),
    (losses.HardLabels(), (zeros(2, 3), zeros(2)), r"HardLabels got .* must have shape \(2, 3\)"),
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
    (textbrewer.AttentionCE(), (zeros(2, 2, 3, 3), zeros(2, 4, 3, 3)), "head counts differ"),
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
    asking = {name for name in losses.__all__ if getattr(losses, name).equal_widths}
    logits = {"SoftTarget", "SoftCrossEntropy", "SoftLabels", "LogitMSE", "AnnealedLogits"}
    logits |= {"DIST", "DKD", "HardTeacher", "LogitStandardized", "NKD", "TTM", "WKDL", "WSLD"}
    assert asking == {"AFD", "ChannelWise", "FSP", "HiddenCosine", "HiddenMSE", "PKD", "VkD", *logits}
    assert losses.ProbabilityShift(nn.MSELoss()).equal_widths
    assert losses.EMD(losses.HiddenMSE()).equal_widths  # as its inner loss
    assert not losses.EMD(losses.AttentionMSE()).equal_widths


def test_repr_shows_the_options() -> None:
    assert repr(losses.SoftTarget(2.0)) == "SoftTarget(temperature=2.0)"
    assert repr(losses.SoftCrossEntropy(2.0)) == "SoftCrossEntropy(temperature=2.0, scaled=True)"
    assert repr(losses.LabelMSE()) == "LabelMSE()"
