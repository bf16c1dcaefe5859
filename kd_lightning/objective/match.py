"""Matches: which student feature learns from which teacher feature, whatever the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from kd_lightning.core.errors import MatchError

Addresses: TypeAlias = str | Sequence[str]


@dataclass(frozen=True)
class Match:
    """Which student address learns from which teacher address.

    Args:
        student: an address (`"hidden.1"`, `"logits"`, a module path), or several for losses over pairs of layers.
        teacher: likewise; a field of the batch (`"labels"`) is allowed; None where the loss needs no target
            (`Match(student="loss")` with `losses.Identity()`).

    Example:
        >>> Match(student="hidden.1", teacher="hidden.3").student_addresses
        ('hidden.1',)
        >>> Match(student=["hidden.0", "hidden.1"], teacher=["hidden.0", "hidden.3"]).teacher_addresses
        ('hidden.0', 'hidden.3')

    """

    student: Addresses
    teacher: Addresses | None = None

    def __post_init__(self) -> None:
        """Turn lists (as configs give them) into tuples and check that each side has its addresses."""
        for side in ("student", "teacher"):
            value = getattr(self, side)
            if isinstance(value, Sequence) and not isinstance(value, str):
                object.__setattr__(self, side, tuple(value))
            if side == "student" or value is not None:
                _check(side, getattr(self, side))

    @property
    def student_addresses(self) -> tuple[str, ...]:
        """The student's addresses, always as a tuple."""
        return (self.student,) if isinstance(self.student, str) else tuple(self.student)

    @property
    def teacher_addresses(self) -> tuple[str, ...]:
        """The teacher's addresses, always as a tuple; empty where there is no target."""
        if self.teacher is None:
            return ()
        return (self.teacher,) if isinstance(self.teacher, str) else tuple(self.teacher)

    def pairs(self) -> list[Match]:
        """Return a match for each pair of addresses, the first with the first.

        Raises:
            MatchError: if one side has more of them.

        Example:
            >>> [str(pair) for pair in Match(["start_logits", "end_logits"], ["start_logits", "end_logits"]).pairs()]
            ['start_logits ← start_logits', 'end_logits ← end_logits']

        """
        student, teacher = self.student_addresses, self.teacher_addresses
        if len(student) != len(teacher):
            raise MatchError(
                f"each of the student's {len(student)} features needs one of the teacher's, but there are "
                f"{len(teacher)}: {', '.join(student)} and {', '.join(teacher) or 'none'}."
            )
        return [Match(*pair) for pair in zip(student, teacher, strict=True)]

    def __str__(self) -> str:
        student, teacher = _short(self.student_addresses), _short(self.teacher_addresses)
        return f"{student} ← {teacher}" if teacher else student


def _short(addresses: Sequence[str]) -> str:
    """Name one address or two; of more, the first and the last."""
    return "+".join(addresses) if len(addresses) < 3 else f"{addresses[0]}…{addresses[-1]}"


def _check(side: str, value: object) -> None:
    addresses = value if isinstance(value, tuple) else (value,)
    if not addresses or not all(isinstance(address, str) and address for address in addresses):
        raise MatchError(
            f"Expected a match's {side} to be an address such as 'hidden.1', or several, but got {value!r}."
        )
