"""Projections: trainable maps from the student's width to the teacher's, built once both widths are known."""

from __future__ import annotations

from typing import Literal, TypeAlias

from torch import nn

from kd_lightning.core.errors import MatchError, hint

Projection: TypeAlias = Literal["linear", "relu", "tanh"] | nn.Module | None

ACTIVATIONS: dict[str, type[nn.Module] | None] = {"linear": None, "relu": nn.ReLU, "tanh": nn.Tanh}


def build_projection(kind: Projection, student_width: int | None, teacher_width: int | None) -> nn.Module | None:
    """Build what maps (…, student_width) to (…, teacher_width).

    Args:
        kind: `"linear"`; `"relu"` or `"tanh"`, the same followed by that activation; a module, used as it is; or None.
        student_width: size of the student feature's last axis.
        teacher_width: size of the teacher feature's last axis.

    Raises:
        MatchError: for an unknown kind, or a width the model's structure does not tell.

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
