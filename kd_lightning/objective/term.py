"""A term: one match, one loss, one weight, and the projection between them if there is one."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.core.batch import field, is_batch_field, logits_mask, token_mask
from kd_lightning.core.errors import AddressError, ConfigError, MatchError, closest
from kd_lightning.core.types import Batch, FeatureInfo, Features, Kind, ModelInfo, RowInfo, Rows, Schedule
from kd_lightning.features import module_widths
from kd_lightning.functional.maps import Pooling
from kd_lightning.functional.precision import no_autocast, widen
from kd_lightning.functional.shapes import one_feature
from kd_lightning.losses.base import DistillationLoss, LossTraits, bind_loss, check_elementwise
from kd_lightning.losses.options import check_choice
from kd_lightning.objective.alignment import Aligned, by_word, word_ids_of
from kd_lightning.objective.checks import (
    check_loss,
    check_match,
    check_not_next,
    check_numbers,
    check_schedule,
    check_sides,
    needed_rows,
)
from kd_lightning.objective.given import mean_of, of_all_ranks, pick, scalar
from kd_lightning.objective.maps import Side, as_compared, comparable
from kd_lightning.objective.masks import described, feature_mask, kind_of, labels_of
from kd_lightning.objective.match import Match
from kd_lightning.objective.projections import Projection, check_named, check_suits, check_widths, projection_between
from kd_lightning.objective.sample_weights import SampleWeight
from kd_lightning.objective.weighting import check_weighted, weighted


class Term(nn.Module):
    """What the student learns at one place, and how much it counts.

    Args:
        match: which student feature learns from which teacher feature.
        loss: `(student, teacher) -> scalar`, on tensors of at least float32 and outside of any autocast region. It is
            also given `mask` (B, L), `labels`, `batch`, `progress` (0 to 1), `sample_id` (B,) and `seed`, each only if
            its `forward` has an argument of that name. A `DistillationLoss` with `widens = True` gets tensors as the
            models made them.
        weight: the factor in the objective's sum.
        schedule: progress in [0, 1] → factor that multiplies `weight`; None keeps the weight as it is.
        projection: applied to the student's feature, in the precision of the student's own layers; built from the
            models' widths when the term is bound to them.
        projection_lr: learning rate of the projection alone; None: the student's.
        resize: how feature maps of different height and width become comparable, behind the projection: larger ones
            are pooled to the smallest, by `"avg"` or `"max"`; None: they must be equal. Where one side has maps and the
            other tokens of image patches, the tokens become a map.
        sample_weight: how much each row counts, by both models' logits: see `kd_lightning.sample_weights`.

    Raises:
        ConfigError: if the weight is not a finite number, the loss or the schedule cannot be called, or `resize` is no
            way of pooling.

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
        resize: Pooling | None = "avg",
        sample_weight: SampleWeight | None = None,
    ) -> None:
        super().__init__()
        check_match(match)
        check_named(projection)
        check_choice("resize", resize, ("avg", "max", None))
        check_loss(loss)
        check_schedule(schedule)
        check_numbers(weight, projection_lr)
        self.match = match
        self.loss = loss
        self.weight = float(weight)
        self.schedule = schedule
        self.projection_lr = projection_lr
        self.resize: Pooling | None = resize
        self.projection = projection if isinstance(projection, nn.Module) else None
        self._projection_kind = None if isinstance(projection, nn.Module) else projection
        self._traits = LossTraits.of(loss)
        self.sample_weight = sample_weight
        if sample_weight is not None:
            check_weighted(sample_weight, loss, self._traits)
        self._student: dict[str, FeatureInfo] = {}
        self._teacher: dict[str, FeatureInfo] = {}

    @property
    def teacher_addresses(self) -> tuple[str, ...]:
        """The addresses the teacher must give: its side of the match without the batch's own fields."""
        return tuple(dict.fromkeys((*self._matched_of_teacher, *self._weighed)))

    @property
    def student_addresses(self) -> tuple[str, ...]:
        """The addresses the student must give."""
        return tuple(dict.fromkeys((*self.match.student_addresses, *self._weighed)))

    @property
    def _matched_of_teacher(self) -> tuple[str, ...]:
        return tuple(a for a in self.match.teacher_addresses if not is_batch_field(a))

    @property
    def _weighed(self) -> tuple[str, ...]:
        """Addresses of what rows are weighed by."""
        return () if self.sample_weight is None else (self.sample_weight.address,)

    @property
    def teacher_state(self) -> dict[str, tuple[str, ...]]:
        """What the loss asks of the teacher's weights, by address; see `DistillationLoss.teacher_state`."""
        return dict.fromkeys(self._matched_of_teacher, self._traits.teacher_state) if self._traits.teacher_state else {}

    @property
    def diagnostics(self) -> Mapping[str, Tensor]:
        """What the loss shows of itself after a batch; see `DistillationLoss.diagnostics`."""
        return self.loss.diagnostics if isinstance(self.loss, DistillationLoss) else {}

    @property
    def is_bound(self) -> bool:
        """Whether the term is bound to two models."""
        return bool(self._student)

    @property
    def needs_classes(self) -> bool:
        """Whether the loss needs one class per row."""
        return self._traits.needs_classes

    @property
    def uses_seed(self) -> bool:
        """Whether the loss makes random choices."""
        return "seed" in self._traits.arguments

    def bind(self, name: str, student: ModelInfo, teacher: ModelInfo | None, rows: Rows | None = None) -> None:
        """Check the term against both models, build its projection, and bind its loss.

        Args:
            name: of the term, for messages.
            student: what is known of the student.
            teacher: what is known of the teacher, if there is one.
            rows: the rows that are trained on, for losses that ask for them.

        Raises:
            AddressError: if a model does not have an address, or there is no teacher to give a teacher feature.
            MatchError: if widths do not agree or cannot be known, or a projection does not suit the features' kind.

        """
        try:
            student.check(self.student_addresses)
            self._student = {a: student.feature(a) for a in self.match.student_addresses}
            self._teacher = {}
            if self.teacher_addresses:
                if teacher is None:
                    what = "match" if self._matched_of_teacher else "sample_weight"
                    raise AddressError(f"this {what} needs a teacher, but none was given.")
                teacher.check(self.teacher_addresses)
                self._teacher = {a: teacher.feature(a) for a in self._matched_of_teacher}
            check_sides(self.loss, self._traits, has_teacher=bool(self.match.teacher_addresses))
            if self._compares_pairs or (self._traits.paired and self._teacher):
                self.match.pairs()
            if any(map(is_batch_field, self.match.teacher_addresses)):
                check_not_next(self._student.values(), "labels of the batch stand beside the wrong logits")
            self._bind_features(needed_rows(self.loss, rows) if self._traits.needs_rows else None)
            for side in (self._student, self._teacher):  # a copy of a term must not copy models
                side.update((address, replace(info, module=None, state={})) for address, info in side.items())
            if self._traits.elementwise:
                several = len(self.match.student_addresses) > 1 or len(self.match.teacher_addresses) > 1
                one_feature(type(self.loss).__name__, *([()] if several else []))
        except (AddressError, MatchError) as error:
            near = isinstance(error, AddressError) and any(
                closest(a, ["labels"]) for a in self.teacher_addresses if "." not in a
            )
            also = " The batch's own field is 'labels'." if near else ""
            raise type(error)(f"Term '{name}' ({self.match}): {error}{also}") from None

    def _bind_features(self, rows: RowInfo | None) -> None:
        """Build or check the projection, then let the loss prepare for what it will get."""
        student = [replace(self._student[a], address=a) for a in self.match.student_addresses]
        teacher = [replace(self._teacher[a], address=a) for a in self._matched_of_teacher]
        if isinstance(self.projection, nn.Linear):
            for info in student:
                check_suits("linear", info.kind, f"a feature of kind '{info.kind}'")
        if self._projection_kind is not None:
            self.projection = projection_between(self._projection_kind, student, teacher)
        elif self._traits.equal_widths:
            check_widths(self.projection, student, teacher)
        if isinstance(self.loss, DistillationLoss):
            if self.projection is not None:
                student = [replace(info, width=module_widths(self.projection)[1]) for info in student]
            own, other = as_compared(student, teacher)
            if getattr(self.loss, "_is_bound", False):  # to another term's features
                self.loss = copy.deepcopy(self.loss)
            bind_loss(self.loss, own, other, rows)
            self.loss._is_bound = True  # type: ignore[assignment]

    @property
    def scheduled(self) -> bool:
        """Whether the weight or the loss changes over training."""
        return self.schedule is not None or self._traits.scheduled

    def weight_at(self, progress: float) -> float:
        """Return base weight × schedule at a progress in [0, 1]."""
        if self.schedule is None:
            return self.weight
        factor = self.schedule(progress)
        try:
            return self.weight * float(factor)
        except (TypeError, ValueError):
            raise ConfigError(f"The schedule of {self.match} must return a number but returned {factor!r}.") from None

    def forward(
        self,
        student: Features,
        teacher: Features,
        batch: Batch,
        progress: float = 0.0,
        seed: int = 0,
        across_ranks: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the unweighted loss and the count its mean runs over (None: not a plain mean).

        Args:
            student: the student's features by address.
            teacher: the teacher's features by address.
            batch: for labels, masks and the batch's own fields.
            progress: share of training done, in [0, 1].
            seed: for losses that make random choices.
            across_ranks: gather the rows of all ranks for a loss that compares rows with one another.

        """
        matches = self.match.pairs() if self._compares_pairs else [self.match]
        gather = across_ranks and self._traits.gather
        found = [self._compare(match, student, teacher, batch, progress, seed, gather) for match in matches]
        return found[0] if len(found) == 1 else mean_of(found)

    @property
    def _compares_pairs(self) -> bool:
        """Whether there are several pairs of features, and the loss compares each by itself."""
        return len(self.match.student_addresses) > 1 and self._traits.per_address

    def _compare(
        self, match: Match, student: Features, teacher: Features, batch: Batch, progress: float, seed: int, gather: bool
    ) -> tuple[Tensor, Tensor | None]:
        raw = pick(student, match.student_addresses, batch)
        target = pick(teacher, match.teacher_addresses, batch)
        given = self._arguments(match.student_addresses[0], raw[0], batch, progress, seed)
        if (aligned := self._by_word(match, raw, target, batch)) is not None:
            raw, target = aligned.student, aligned.teacher
            given |= {"mask": aligned.mask} if "mask" in given else {}
        projected = [self._project(x, a) for x, a in zip(raw, match.student_addresses, strict=True)]
        own = Side(match.student_addresses, projected, self._student)
        other = Side(match.teacher_addresses, target, self._teacher)
        with no_autocast(projected[0]):
            sides = [self._wide(side) for side in self._comparable(own, other, batch) if side]
            if gather:
                sides, given = of_all_ranks(sides, given)
            if sides[0][0].dim() and not len(sides[0][0]):  # a mean over no rows is none: they count for nothing
                return sides[0][0].sum(), sides[0][0].new_zeros(())
            tensors = [side[0] if len(side) == 1 else tuple(side) for side in sides]
            if self._traits.elementwise:
                check_elementwise(self.loss, *tensors)
            if self.sample_weight is not None:
                weights = self._weights(self.sample_weight, student, teacher, batch)
                return weighted(self.loss, tensors, given, weights, self.sample_weight.normalize)
            value = scalar(self.loss(*tensors, **given), match)
            return value, self.loss.count(*tensors, **given) if isinstance(self.loss, DistillationLoss) else None

    def _weights(self, rule: SampleWeight, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the weight of each row."""
        logits = student[rule.address]
        labels = labels_of(rule.address, batch) if rule.needs_labels else None
        return rule(logits, teacher[rule.address], labels, feature_mask(rule.address, logits, batch, "classes"))

    def _comparable(self, own: Side, other: Side, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """Return both sides with all maps in one size, or each pair of them."""
        has_tokens = partial(_has_tokens, batch)
        if not (self._traits.paired and other.features):
            return comparable(own, other, has_tokens, self.resize)
        pairs = zip(own.each(), other.each(), strict=True)
        found = [comparable(*pair, has_tokens, self.resize) for pair in pairs]
        return [x for side, _ in found for x in side], [x for _, side in found for x in side]

    def _by_word(self, match: Match, student: list[Tensor], teacher: list[Tensor], batch: Batch) -> Aligned | None:
        """Align the features of two models where each has its own tokenizer."""
        ids = None if not teacher or any(map(is_batch_field, match.teacher_addresses)) else word_ids_of(batch)
        if ids is None:
            return None
        kinds = [_kind(self._student, a) for a in match.student_addresses]
        return by_word(
            match, student, teacher, ids, (kinds, [_kind(self._teacher, a) for a in match.teacher_addresses])
        )

    def _project(self, x: Tensor, address: str) -> Tensor:
        if self.projection is None:
            return x
        if self._projection_kind is not None:
            kind = kind_of(address, x, _kind(self._student, address))
            kind = "map" if kind is None and x.ndim == 4 else kind
            what = f"a feature of {described(kind_of(address, x), x.shape)}"
            check_suits(self._projection_kind, kind, f"{what}, at {self.match}")
        if torch.is_autocast_enabled(x.device.type):
            return self.projection(x)
        return self.projection(x.to(next(self.projection.parameters(), x).dtype))

    def _wide(self, tensors: list[Tensor]) -> list[Tensor]:
        """Widen what the loss does not widen by itself: of large logits no needless copy is made."""
        if self._traits.widens:
            return tensors
        return [widen(x) if isinstance(x, Tensor) and x.is_floating_point() else x for x in tensors]

    def _arguments(self, address: str, feature: Tensor, batch: Batch, progress: float, seed: int) -> dict[str, Any]:
        """Return the arguments that the loss names; see `losses.base.ARGUMENTS`."""
        makers: dict[str, Callable[[], Any]] = {
            "mask": lambda: self._mask(address, feature, batch),
            "labels": lambda: labels_of(address, batch),
            "batch": lambda: batch,
            "progress": lambda: progress,
            "sample_id": lambda: field(batch, "sample_id"),
            "seed": lambda: seed,
        }
        return {name: makers[name]() for name in self._traits.arguments}

    def _mask(self, address: str, feature: Tensor, batch: Batch) -> Tensor | None:
        known = self._student.get(address, FeatureInfo())
        if known.predicts_next and logits_mask(batch) is None:
            labels = field(batch, "labels")
            if isinstance(labels, Tensor) and labels.shape == feature.shape[:2]:
                check_not_next([known], "labels of −100 would leave out the wrong ones")
        return feature_mask(address, feature, batch, known.kind, decoder=known.stack == "decoder")

    def __repr__(self) -> str:
        parts = [str(self.match), one_line(self.loss), f"weight={self.weight:g}"]
        parts += [] if self.schedule is None else [f"schedule={one_line(self.schedule)}"]
        projection = self._projection_kind if self.projection is None else self.projection
        parts += [] if projection is None else [f"projection={one_line(projection)}"]
        parts += [] if self.sample_weight is None else [f"sample_weight={self.sample_weight!r}"]
        return f"Term({', '.join(parts)})"


def one_line(thing: object) -> str:
    """Return the repr of a module, a function or anything else on one line.

    Example:
        >>> one_line(nn.Sequential(nn.Tanh())), one_line(max)
        ('Sequential((0): Tanh())', 'max')

    """
    shown = str(thing.__name__) if hasattr(thing, "__name__") else repr(thing)
    return re.sub(r"\s*\n\s*", " ", shown).replace("( ", "(").replace(" )", ")")


def _has_tokens(batch: Batch) -> bool:
    return token_mask(batch) is not None


def _kind(infos: Mapping[str, FeatureInfo], address: str) -> Kind | None:
    """Return the kind of a feature; None before a term is bound."""
    return infos[address].kind if address in infos else None
