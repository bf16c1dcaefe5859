"""A term: one match, one loss, one weight, and the projection between them if there is one."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.core.batch import field, is_batch_field, required_field
from kd_lightning.core.errors import AddressError, ConfigError, MatchError, closest, hint
from kd_lightning.core.types import Batch, Features, ModelInfo, Schedule
from kd_lightning.functional.precision import no_autocast, widen
from kd_lightning.objective.alignment import Aligned, by_word, word_ids_of
from kd_lightning.objective.masks import feature_mask
from kd_lightning.objective.match import Match
from kd_lightning.objective.projections import Projection, build_projection
from kd_lightning.objective.widths import check_widths

LABELS_OF = {"start_logits": "start_positions", "end_logits": "end_positions"}
"""What the labels of an output are called in the batch, where not `labels`."""

_PER_HEAD = re.compile(r"(query|key|value)\.\d+$")

EXTRAS = ("mask", "labels", "batch", "progress")
"""Keyword arguments a loss may name in its `forward` and is then given."""


class Term(nn.Module):
    """What the student learns at one place, and how much it counts.

    Args:
        match: which student feature learns from which teacher feature.
        loss: `(student, teacher) -> scalar`, on tensors of at least float32 and outside of any autocast region. It is
            also given `mask` (B, L), `labels`, `batch` and `progress` (0 to 1), each only if its `forward` has an
            argument of that name. One that says `widens = True` gets tensors as the models made them.
        weight: the factor in the objective's sum.
        schedule: progress in [0, 1] → factor that multiplies `weight`; None keeps the weight as it is.
        projection: applied to the student's feature, in the precision of the student's own layers; built from the
            models' widths when the term is bound to them.
        projection_lr: learning rate of the projection alone; None: the student's.

    Raises:
        ConfigError: for a weight that is not a finite number or a loss that cannot be called.

    Example:
        >>> import torch
        >>> term = Term(Match("logits", "labels"), nn.CrossEntropyLoss(), weight=0.5)
        >>> batch = (torch.zeros(2, 4), torch.tensor([0, 1]))
        >>> value, _ = term({"logits": torch.zeros(2, 2)}, {}, batch)
        >>> round(float(value), 3)
        0.693

    """

    def __init__(
        self,
        match: Match,
        loss: Callable[..., Tensor],
        weight: float = 1.0,
        schedule: Schedule | None = None,
        projection: Projection = None,
        projection_lr: float | None = None,
    ) -> None:
        super().__init__()
        if not callable(loss):
            raise ConfigError(f"Expected argument `loss` of a term to be an nn.Module or a function but got {loss!r}.")
        _check_callables(loss, schedule)
        if projection_lr is not None and not 0 <= projection_lr < float("inf"):
            raise ConfigError(f"Expected argument `projection_lr` not to be negative but got {projection_lr!r}.")
        if not isinstance(weight, int | float) or not abs(weight) < float("inf"):
            raise ConfigError(f"Expected argument `weight` of a term to be a finite number but got {weight!r}.")
        self.match = match
        self.loss = loss
        self.weight = float(weight)
        self.schedule = schedule
        self.projection_lr = projection_lr
        self.projection = projection if isinstance(projection, nn.Module) else None
        self._projection_kind = None if isinstance(projection, nn.Module) else projection
        self._extras = _extras_of(loss)

    @property
    def teacher_addresses(self) -> tuple[str, ...]:
        """The addresses the teacher must give: its side of the match without the batch's own fields."""
        return tuple(a for a in self.match.teacher_addresses if not is_batch_field(a))

    def bind(self, name: str, student: ModelInfo, teacher: ModelInfo | None) -> None:
        """Check the term against both models and build its projection.

        Raises:
            AddressError: for an address a model does not have, or a teacher feature where there is no teacher.
            MatchError: for widths that do not agree, or that cannot be known.

        """
        try:
            student.check(self.match.student_addresses)
            if self.teacher_addresses:
                _required(teacher).check(self.teacher_addresses)
            if self._one_by_one:
                self.match.pairs()
            self._bind_widths(student, teacher)
        except (AddressError, MatchError) as error:
            raise type(error)(f"Term '{name}' ({self.match}): {error}{self._batch_hint(error)}") from None

    def _batch_hint(self, error: Exception) -> str:
        near = isinstance(error, AddressError) and any(closest(a, ["labels"]) for a in self.teacher_addresses)
        return " The batch's own field is 'labels'." if near else ""

    def _bind_widths(self, student: ModelInfo, teacher: ModelInfo | None) -> None:
        widths = [student.width(a) for a in self.match.student_addresses]
        targets = [teacher.width(a) for a in self.teacher_addresses] if teacher is not None else []
        if self._projection_kind is not None:
            self.projection = build_projection(
                self._projection_kind, _only(widths, "student"), _only(targets, "teacher")
            )
        elif getattr(self.loss, "equal_widths", False):
            check_widths(self.projection, widths, targets)

    @property
    def scheduled(self) -> bool:
        """Whether the weight or the loss changes over training; a loss that asks for progress says by `scheduled`."""
        asks = "progress" in self._extras and bool(getattr(self.loss, "scheduled", True))
        return self.schedule is not None or asks

    def weight_at(self, progress: float) -> float:
        """Return base weight × schedule at a progress in [0, 1]."""
        return self.weight if self.schedule is None else self.weight * self.schedule(progress)

    def forward(
        self, student: Features, teacher: Features, batch: Batch, progress: float = 0.0
    ) -> tuple[Tensor, Tensor | None]:
        """Return the unweighted loss and the count its mean runs over (None: not a plain mean)."""
        if not self._one_by_one:
            return self._compare(self.match, student, teacher, batch, progress)
        return _mean([self._compare(pair, student, teacher, batch, progress) for pair in self.match.pairs()])

    @property
    def _one_by_one(self) -> bool:
        """Whether there are several pairs of features, and the loss compares each by itself."""
        return len(self.match.student_addresses) > 1 and bool(getattr(self.loss, "one_by_one", False))

    def _compare(
        self, match: Match, student: Features, teacher: Features, batch: Batch, progress: float
    ) -> tuple[Tensor, Tensor | None]:
        raw = _pick(student, match.student_addresses, batch)
        target = _pick(teacher, match.teacher_addresses, batch)
        extras = self._given(match.student_addresses[0], raw[0], batch, progress)
        if (aligned := self._by_word(match, raw, target, batch)) is not None:
            raw, target = aligned.student, aligned.teacher
            extras |= {"mask": aligned.mask} if "mask" in extras else {}
        projected = [self._project(x) for x in raw]
        with no_autocast(projected[0]):
            arguments = [_one_or_all(self._wide(side)) for side in (projected, target) if side]
            count = getattr(self.loss, "count", None)
            value = _scalar(self.loss(*arguments, **extras), match)
            return value, count(*arguments, **extras) if callable(count) else None

    def _by_word(self, match: Match, student: list[Tensor], teacher: list[Tensor], batch: Batch) -> Aligned | None:
        """Align the features of two models where each has its own tokenizer."""
        theirs = [a for a in match.teacher_addresses if not is_batch_field(a)]
        ids = word_ids_of(batch) if len(theirs) == len(teacher) > 0 else None
        return by_word(match, student, teacher, ids) if ids is not None else None

    def _project(self, x: Tensor) -> Tensor:
        if self.projection is None:
            return x
        if self._projection_kind is not None and x.ndim == 4 and not _PER_HEAD.search(self.match.student_addresses[0]):
            raise MatchError(
                f"projection='{self._projection_kind}' maps the last axis, but {self.match} gives a map of shape "
                f"{tuple(x.shape)}. Give a module for channels, such as nn.Conv2d({x.shape[1]}, …, kernel_size=1)."
            )
        if torch.is_autocast_enabled(x.device.type):
            return self.projection(x)
        return self.projection(x.to(next(self.projection.parameters(), x).dtype))

    def _wide(self, tensors: list[Tensor]) -> list[Tensor]:
        """Widen what the loss does not widen by itself: of large logits no copy is made that nobody needs."""
        if getattr(self.loss, "widens", False):
            return tensors
        return [widen(x) if isinstance(x, Tensor) and x.is_floating_point() else x for x in tensors]

    def _given(self, address: str, feature: Tensor, batch: Batch, progress: float) -> dict[str, Any]:
        makers: dict[str, Callable[[], Any]] = {
            "mask": lambda: feature_mask(address, feature, batch),
            "labels": lambda: field(batch, LABELS_OF.get(address, "labels")),
            "batch": lambda: batch,
            "progress": lambda: progress,
        }
        return {name: makers[name]() for name in self._extras}


def _check_callables(loss: object, schedule: object) -> None:
    if isinstance(loss, type):
        raise ConfigError(
            f"Expected argument `loss` to be a loss but got the class {loss.__name__}: write {loss.__name__}()."
        )
    if schedule is not None and (isinstance(schedule, type) or not callable(schedule)):
        raise ConfigError(
            f"Expected argument `schedule` to be a function of progress, such as Cosine(), got {schedule!r}."
        )


def _extras_of(loss: Callable[..., Tensor]) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters
    except ValueError:  # a builtin such as torch.dist, which names nothing
        return ()
    return tuple(name for name in EXTRAS if name in parameters)


def _pick(features: Features, addresses: tuple[str, ...], batch: Batch) -> list[Tensor]:
    return [required_field(batch, a) if is_batch_field(a) else _found(features, a) for a in addresses]


def _found(features: Features, address: str) -> Tensor:
    if address not in features:
        raise AddressError(f"The feature '{address}' did not arrive. {hint(address, features)}")
    return features[address]


def _one_or_all(tensors: list[Tensor]) -> Tensor | tuple[Tensor, ...]:
    return tensors[0] if len(tensors) == 1 else tuple(tensors)


def _required(teacher: ModelInfo | None) -> ModelInfo:
    if teacher is None:
        raise AddressError("this match needs a teacher, but none was given.")
    return teacher


def _mean(found: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
    """Return the mean over all that several means ran over, and its count."""
    counts = [count for _, count in found if count is not None]
    if len(counts) < len(found):
        return torch.stack([value for value, _ in found]).mean(), None
    shares, total = torch.stack(counts), torch.stack(counts).sum()
    return (torch.stack([value for value, _ in found]) * shares).sum() / total.clamp(min=1), total


def _scalar(value: object, match: Match) -> Tensor:
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.reshape(())
    got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise MatchError(f"Expected the loss of {match} to be a scalar tensor but got {got}.")


def _only(widths: list[int | None], side: str) -> int | None:
    if len(set(widths)) > 1:
        raise MatchError(
            f"one projection is shared by the {side}'s features, but their widths differ: "
            f"{', '.join(map(str, widths))}."
        )
    return next(iter(widths), None)
