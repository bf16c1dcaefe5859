"""Projections: trainable maps from the student's width to the teacher's, built and checked once both are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from kd_lightning.core.errors import MatchError, hint
from kd_lightning.core.types import FeatureInfo, Kind
from kd_lightning.features import module_widths
from kd_lightning.functional.precision import widened

Projection: TypeAlias = (
    Literal["linear", "relu", "tanh", "orthogonal", "conv", "conv_bn", "conv_bn_relu"] | nn.Module | None
)

LINEAR: dict[str, type[nn.Module] | None] = {"linear": None, "relu": nn.ReLU, "tanh": nn.Tanh, "orthogonal": None}
"""Projections of the last axis, and what follows the linear layer."""

CONVOLUTIONS = ("conv", "conv_bn", "conv_bn_relu")
"""Projections of the channels of maps: a 1×1 convolution, and what follows it."""


def build_projection(kind: Projection, student_width: int | None, teacher_width: int | None) -> nn.Module | None:
    """Build what maps (…, student_width) to (…, teacher_width), or the channels of (B, student_width, H, W).

    Args:
        kind: `"linear"`; `"relu"` or `"tanh"`, the same followed by that activation; `"orthogonal"`, linear without
            bias, whose weight keeps orthonormal rows or columns; `"conv"`, a 1×1 convolution of maps; `"conv_bn"`, the
            same without bias and with a batch norm; `"conv_bn_relu"`, with a ReLU after it; a module, used as it is; or
            None.
        student_width: size of the student feature's last axis, or its channels.
        teacher_width: size of the teacher feature's last axis, or its channels.

    Raises:
        MatchError: if the kind is unknown, or a width is not known from the model's structure.

    Example:
        >>> build_projection("linear", 312, 768)
        Linear(in_features=312, out_features=768, bias=True)
        >>> build_projection("conv", 16, 64)
        Conv2d(16, 64, kernel_size=(1, 1), stride=(1, 1))

    """
    if kind is None or isinstance(kind, nn.Module):
        return kind
    check_named(kind)
    if student_width is None or teacher_width is None:
        side = "student" if student_width is None else "teacher"
        example = "nn.Conv2d(16, 64, kernel_size=1)" if kind in CONVOLUTIONS else "nn.Linear(312, 768)"
        raise MatchError(
            f"The width of the {side}'s feature cannot be known before it runs, so no '{kind}' projection can be "
            f"built. Give an nn.Module, such as {example}, as the projection."
        )
    if kind in CONVOLUTIONS:
        return _convolution(kind, student_width, teacher_width)
    if kind == "orthogonal":
        return OrthogonalLinear(student_width, teacher_width)
    activation = LINEAR[kind]
    linear = nn.Linear(student_width, teacher_width)
    return linear if activation is None else nn.Sequential(linear, activation())


class OrthogonalLinear(nn.Linear):
    """A linear layer without bias whose weight keeps orthonormal rows or columns; at least in float32.

    Args:
        in_features: the student's width.
        out_features: the teacher's width.

    Example:
        >>> import torch
        >>> weight = OrthogonalLinear(3, 5).weight
        >>> torch.allclose(weight.T @ weight, torch.eye(3), atol=1e-5)
        True

    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)
        orthogonal(self)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> OrthogonalLinear:
        """Move to a device or precision, but to none below float32, in which no orthogonal weight can be made."""

        def kept(x: Tensor) -> Tensor:
            moved = fn(x)
            return moved if moved.dtype == widened(moved) else x.to(moved.device)

        return super()._apply(kept, recurse)


def check_named(kind: object) -> None:
    """Check that a projection is a module, one of the names, or None.

    Raises:
        MatchError: if it is anything else; with the closest names.

    """
    if kind is not None and not isinstance(kind, nn.Module) and kind not in (*LINEAR, *CONVOLUTIONS):
        choices = hint(str(kind), [*LINEAR, *CONVOLUTIONS])
        raise MatchError(f"Unknown projection {kind!r}. {choices} Or give an nn.Module.")


def _convolution(kind: str, student_width: int, teacher_width: int) -> nn.Module:
    if kind == "conv":
        return nn.Conv2d(student_width, teacher_width, kernel_size=1)
    convolution = nn.Conv2d(student_width, teacher_width, kernel_size=1, bias=False)  # the norm has one
    activation = [nn.ReLU()] if kind == "conv_bn_relu" else []
    return nn.Sequential(convolution, nn.BatchNorm2d(teacher_width), *activation)


def projection_between(kind: str, student: Sequence[FeatureInfo], teacher: Sequence[FeatureInfo]) -> nn.Module | None:
    """Build the projection of a term's student features, as they are at their addresses.

    Args:
        kind: as for `build_projection`.
        student: what is known of the student's features; they share the projection.
        teacher: what is known of the teacher's.

    Raises:
        MatchError: if the projection does not suit the kind of a student's feature, the features of one side have
            several widths, or a width is not known.

    """
    for info in student:
        check_suits(kind, info.kind, f"a feature of kind '{info.kind}'")
    return build_projection(kind, _only(student, "student"), _only(teacher, "teacher"))  # type: ignore[arg-type]


def check_suits(projection: str, kind: Kind | None, what: str) -> None:
    """Check that a projection by name maps the axis of a feature that is its width.

    Args:
        projection: its name.
        kind: of the student's feature; None, where it is not known, suits all.
        what: the feature, for the message.

    Raises:
        MatchError: if it does not; names the projection that does.

    """
    if projection in LINEAR and kind == "map":
        raise MatchError(
            f"projection='{projection}' maps the last axis, which is no width in {what}: use projection='conv', "
            "'conv_bn' or 'conv_bn_relu', or give a module for channels."
        )
    if projection in LINEAR and kind == "attention":
        raise MatchError(f"projection='{projection}' maps the last axis, which is no width in {what}: leave it out.")
    if projection in CONVOLUTIONS and kind not in (None, "map"):
        fix = "use projection='linear'" if kind in ("vector", "tokens", "heads", "queries") else "leave it out"
        raise MatchError(f"projection='{projection}' maps the channels of feature maps, but this is {what}: {fix}.")


def _only(infos: Sequence[FeatureInfo], side: str) -> int | None:
    """Return the one width of several features that share a projection."""
    widths = [info.width for info in infos]
    if len(set(widths)) > 1:
        raise MatchError(
            f"one projection is shared by the {side}'s features, but their widths differ: "
            f"{', '.join(map(str, widths))}."
        )
    return next(iter(widths), None)


def check_widths(projection: nn.Module | None, student: Sequence[FeatureInfo], teacher: Sequence[FeatureInfo]) -> None:
    """Check that each student feature, projected if there is a projection, is as wide as its teacher feature.

    Raises:
        MatchError: if two widths are known and differ; with both, and what to do.

    Example:
        >>> check_widths(nn.Linear(2, 3), [FeatureInfo(width=2), FeatureInfo()], [FeatureInfo(width=3)] * 2)

    """
    takes, gives = (None, None) if projection is None else module_widths(projection)
    for own, target in zip(student, teacher, strict=False):
        kind = "" if own.kind is None else f" (kind '{own.kind}')"
        fix = "'conv'" if own.kind == "map" else "'linear', or for logits give both models the same number of labels"
        padded = own.kind == "classes" and own.width and target.width and min(own.width, target.width) > 100
        if projection is None and _differ(own.width, target.width) and padded:
            raise MatchError(
                f"the student's logits are over {own.width} classes and the teacher's over {target.width}. If one "
                "vocabulary is the other with rows added to it, cut or pad them with resize_token_embeddings; if their "
                "tokens differ, logits cannot be compared."
            )
        if projection is None and _differ(own.width, target.width):
            raise MatchError(
                f"the student's width is {own.width} and the teacher's {target.width}{kind}. Add projection={fix}."
            )
        if _differ(takes, own.width):
            raise MatchError(f"its projection takes {takes} features, but the student's width is {own.width}{kind}.")
        if _differ(gives, target.width):
            raise MatchError(f"its projection gives {gives} features, but the teacher's width is {target.width}{kind}.")


def _differ(one: int | None, other: int | None) -> bool:
    return one is not None and other is not None and one != other
