"""Projections: trainable maps from the student's width to the teacher's, built and checked once both are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from torch import nn

from kd_lightning.core.errors import MatchError, hint
from kd_lightning.core.types import FeatureInfo
from kd_lightning.features.widths import module_widths

Projection: TypeAlias = Literal["linear", "relu", "tanh"] | nn.Module | None

ACTIVATIONS: dict[str, type[nn.Module] | None] = {"linear": None, "relu": nn.ReLU, "tanh": nn.Tanh}


def build_projection(kind: Projection, student_width: int | None, teacher_width: int | None) -> nn.Module | None:
    """Build what maps (…, student_width) to (…, teacher_width).

    Args:
        kind: `"linear"`; `"relu"` or `"tanh"`, the same followed by that activation; a module, used as it is; or None.
        student_width: size of the student feature's last axis.
        teacher_width: size of the teacher feature's last axis.

    Raises:
        MatchError: if the kind is unknown, or a width is not known from the model's structure.

    Example:
        >>> build_projection("linear", 312, 768)
        Linear(in_features=312, out_features=768, bias=True)

    """
    if kind is None or isinstance(kind, nn.Module):
        return kind
    if kind not in ACTIVATIONS:
        raise MatchError(f"Unknown projection '{kind}'. {hint(kind, ACTIVATIONS)} Or give an nn.Module.")
    if student_width is None or teacher_width is None:
        side = "student" if student_width is None else "teacher"
        raise MatchError(
            f"The width of the {side}'s feature cannot be known before it runs, so no '{kind}' projection can be "
            "built. Give an nn.Module, such as nn.Linear(312, 768), as the projection."
        )
    activation = ACTIVATIONS[kind]
    linear = nn.Linear(student_width, teacher_width)
    return linear if activation is None else nn.Sequential(linear, activation())


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
        if projection is None and _differ(own.width, target.width):
            raise MatchError(
                f"the student's width is {own.width} and the teacher's {target.width}{kind}. "
                "Add projection='linear', or for logits give both models the same number of labels."
            )
        if _differ(takes, own.width):
            raise MatchError(f"its projection takes {takes} features, but the student's width is {own.width}{kind}.")
        if _differ(gives, target.width):
            raise MatchError(f"its projection gives {gives} features, but the teacher's width is {target.width}{kind}.")


def _differ(one: int | None, other: int | None) -> bool:
    return one is not None and other is not None and one != other
