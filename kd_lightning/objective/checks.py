"""Checks of what a term is made of, and of whether its loss suits its match."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from torch import nn

from kd_lightning.core.arguments import is_finite_number
from kd_lightning.core.errors import ConfigError, MatchError
from kd_lightning.core.types import FeatureInfo, RowInfo, Rows
from kd_lightning.losses.base import ARGUMENTS, LossTraits
from kd_lightning.objective.match import Match


def check_match(match: object) -> None:
    """Refuse what is no Match, such as a pair of addresses."""
    if isinstance(match, Match):
        return
    sides = match if isinstance(match, tuple | list) and len(match) == 2 else (match, match)
    named = isinstance(match, str | tuple | list)
    like = f"Match({sides[0]!r}, {sides[1]!r})" if named else "Match('logits', 'logits')"
    raise ConfigError(f"Expected argument `match` to be a Match, such as {like}, got {match!r}.")


def check_loss(loss: object) -> None:
    """Refuse a loss that cannot be called, or a class of losses."""
    if not callable(loss):
        raise ConfigError(f"Expected argument `loss` of a term to be an nn.Module or a function but got {loss!r}.")
    if isinstance(loss, type):
        name = loss.__name__
        raise ConfigError(f"Expected argument `loss` to be a loss but got the class {name}: write {name}().")


def check_schedule(schedule: object) -> None:
    """Refuse a schedule that is no function of progress."""
    if schedule is not None and (isinstance(schedule, type) or not callable(schedule)):
        raise ConfigError(
            f"Expected argument `schedule` to be a function of progress, such as Cosine(), got {schedule!r}."
        )


def check_numbers(weight: float, projection_lr: float | None) -> None:
    """Refuse a weight that is not finite, and a negative learning rate."""
    if projection_lr is not None and not (is_finite_number(projection_lr) and projection_lr >= 0):
        raise ConfigError(f"Expected argument `projection_lr` not to be negative but got {projection_lr!r}.")
    if not is_finite_number(weight):
        raise ConfigError(f"Expected argument `weight` of a term to be a finite number but got {weight!r}.")


def check_sides(loss: object, traits: LossTraits, has_teacher: bool) -> None:
    """Raise an error for a loss of two sides where the match has one, or the other way round.

    Args:
        loss: of the term.
        traits: of the loss.
        has_teacher: whether the match has two sides.

    Raises:
        MatchError: saying what is too much or too little.

    """
    forward, name = (
        loss.forward if isinstance(loss, nn.Module) else loss,
        getattr(loss, "__name__", type(loss).__name__),
    )
    try:
        signature = inspect.signature(forward)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # a builtin, which says nothing of its arguments
        return
    try:
        signature.bind(*["side"] * (1 + has_teacher), **dict.fromkeys(traits.arguments))
    except TypeError as error:
        sides = {p.name for p in signature.parameters.values()} - set(ARGUMENTS)
        if len(sides) != 2 - has_teacher:
            given = "both sides" if has_teacher else "the student's side"
            message = (
                f"the loss {name} cannot be called with {given} ({error}): it may name, beside them, any of "
                f"{', '.join(ARGUMENTS)}."
            )
        elif has_teacher:
            message = f"the loss {name} takes the student's side alone: leave the match's teacher out."
        else:
            message = f"the loss {name} compares two sides, and this match has one: give it a teacher's, or 'labels'."
        raise MatchError(message) from None


def check_not_next(student: Iterable[FeatureInfo], what: str) -> None:
    """Raise an error where the student's logits are of the next token, and labels are not shifted likewise."""
    if any(info.predicts_next for info in student):
        raise MatchError(
            f"the student is a causal language model, whose logits at a token are of the next one: {what}. Give "
            "shifted labels by another name to a loss of your own, or a `logits_mask` to one that compares logits."
        )


def needed_rows(loss: object, rows: Rows | None) -> RowInfo:
    """Return the rows that are trained on, for a loss that keeps something of each.

    Raises:
        MatchError: if they are not known.

    """
    if rows is None:
        raise MatchError(
            f"the loss {type(loss).__name__} keeps something of every training row, and the rows are "
            "not known: give DistillationModule, or DistillationCallback, rows=RowInfo(ids, labels)."
        )
    return rows if isinstance(rows, RowInfo) else rows()
