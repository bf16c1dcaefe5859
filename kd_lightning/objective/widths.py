"""Whether features fit together, from widths that are known before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from kd_lightning.core.errors import MatchError
from kd_lightning.features import module_widths

Widths = Sequence[int | None]
"""One per address; None where the structure does not tell."""


def check_widths(projection: nn.Module | None, student: Widths, teacher: Widths) -> None:
    """Check that each student feature, projected if there is a projection, is as wide as its teacher feature.

    Raises:
        MatchError: with both widths, and what to do.

    Example:
        >>> check_widths(nn.Linear(2, 3), student=[2, None], teacher=[3, 3])

    """
    takes, gives = (None, None) if projection is None else module_widths(projection)
    for own, target in zip(student, teacher, strict=False):
        if projection is None and _differ(own, target):
            raise MatchError(
                f"the student's width is {own} and the teacher's {target}. "
                "Add projection='linear', or for logits give both models the same number of labels."
            )
        if _differ(takes, own):
            raise MatchError(f"its projection takes {takes} features, but the student's width is {own}.")
        if _differ(gives, target):
            raise MatchError(f"its projection gives {gives} features, but the teacher's width is {target}.")


def _differ(one: int | None, other: int | None) -> bool:
    return one is not None and other is not None and one != other
