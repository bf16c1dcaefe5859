"""Several teachers whose predictions are combined, and whose features can be matched individually."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from kd_lightning.core.arguments import is_finite_number
from kd_lightning.core.errors import AddressError, ConfigError, MatchError, hint
from kd_lightning.core.types import NAME, Batch, FeatureInfo, Features, ModelInfo
from kd_lightning.features.addresses import address_kind
from kd_lightning.functional.ensembling import confidence, mean_logits, mean_probabilities
from kd_lightning.functional.precision import widen
from kd_lightning.teachers.base import TeacherSource
from kd_lightning.teachers.live import as_teacher

Weights: TypeAlias = Mapping[str, float] | Literal["confidence"] | None


class EnsembleTeacher(TeacherSource):
    """Runs several teachers and combines their predictions; the features of each can be matched individually.

    In `Match("logits", "logits")` the teacher side is the combined prediction, in `Match("hidden.2", "a/hidden.4")` the
    teacher named `a`.

    Args:
        teachers: sources or models by name (letters, digits, underscores).
        weights: one per teacher, not negative, scaled to sum to 1; None weighs all alike; `"confidence"` weighs each
            teacher on each sample by the inverse of its prediction's entropy (Kwon et al. 2020).
        combine: mean of `logits`, as TextBrewer's, or of `probabilities`.
        temperature: at which probabilities are averaged; that of the loss that compares them. Logits do not need it.
        multilabel: whether probabilities are sigmoids, one per label, and no softmax.

    Raises:
        ConfigError: if there are no teachers, a name or weight is invalid, or the way to combine is unknown.

    Example:
        >>> ensemble = EnsembleTeacher({"a": nn.Linear(4, 2), "b": nn.Linear(4, 2)}, weights={"a": 3, "b": 1})
        >>> ensemble.ask(["logits", "b/logits"])
        >>> {address: tuple(x.shape) for address, x in ensemble((torch.zeros(3, 4), None)).items()}
        {'logits': (3, 2), 'b/logits': (3, 2)}

    """

    def __init__(
        self,
        teachers: Mapping[str, TeacherSource | nn.Module],
        weights: Weights = None,
        combine: Literal["logits", "probabilities"] = "logits",
        temperature: float = 1.0,
        multilabel: bool = False,
    ) -> None:
        _check_names(teachers)
        if combine not in ("logits", "probabilities"):
            raise ConfigError(f"Unknown way to combine teachers '{combine}'. Choose logits or probabilities.")
        if not is_finite_number(temperature) or not temperature > 0:
            raise ConfigError(f"Expected argument `temperature` to be positive and finite but got {temperature!r}.")
        if weights not in (None, "confidence") and not isinstance(weights, Mapping):
            raise ConfigError(
                f"Expected `weights` to be one per teacher by name, 'confidence' or None but got {weights!r}."
            )
        self.teachers = {name: as_teacher(teacher) for name, teacher in teachers.items()}
        self.weights = _fractions(weights, list(teachers)) if isinstance(weights, Mapping) else weights
        self.combine = combine
        self.temperature = float(temperature)
        self.multilabel = multilabel
        self._shares: Tensor | None = None
        self._joint: tuple[str, ...] = ()
        self._own: dict[str, list[str]] = {}

    def __repr__(self) -> str:
        weights = "" if self.weights is None else f", weights={self.weights!r}"
        return f"EnsembleTeacher({', '.join(self.teachers)}, combine={self.combine!r}{weights})"

    @property
    def info(self) -> ModelInfo:
        """What can be requested: combined predictions, and features of each teacher by its name and a slash."""
        return EnsembleInfo({name: teacher.info for name, teacher in self.teachers.items()})

    def ask(self, addresses: Sequence[str]) -> None:
        """Set which features every later call returns.

        Raises:
            AddressError: if a feature is neither a combined prediction nor one teacher's own.

        """
        self.info.check(addresses)
        self._joint = tuple(address for address in addresses if "/" not in address)
        self._own = {
            name: [a.partition("/")[2] for a in addresses if a.startswith(f"{name}/")] for name in self.teachers
        }
        for name, teacher in self.teachers.items():
            teacher.ask(list(dict.fromkeys([*self._joint, *self._own[name]])))

    def __call__(self, batch: Batch) -> Features:
        """Return the features of one batch; a teacher of which nothing is requested does not run."""
        needed = {name: t for name, t in self.teachers.items() if self._joint or self._own[name]}
        found = {name: teacher(_own_batch(batch, name)) for name, teacher in needed.items()}
        joint = {address: self._combined(address, [found[name][address] for name in needed]) for address in self._joint}
        return joint | {f"{name}/{address}": found[name][address] for name in needed for address in self._own[name]}

    def _combined(self, address: str, predictions: list[Tensor]) -> Tensor:
        if len({x.shape for x in predictions}) > 1:
            shapes = ", ".join(f"{name} {list(x.shape)}" for name, x in zip(self.teachers, predictions, strict=True))
            raise MatchError(f"The teachers' '{address}' differ in shape ({shapes}), so they cannot be averaged.")
        logits = torch.stack([widen(x) for x in predictions])
        weights = self._weights_of(logits)
        if self.combine == "logits":
            return mean_logits(logits, weights)
        return mean_probabilities(logits, weights, self.temperature, self.multilabel)

    def _weights_of(self, logits: Tensor) -> Tensor:
        if self.weights == "confidence":
            return confidence(logits, self.multilabel)
        if self._shares is None or (self._shares.device, self._shares.dtype) != (logits.device, logits.dtype):
            shares = self.weights if isinstance(self.weights, list) else [1 / len(self.teachers)] * len(self.teachers)
            self._shares = torch.tensor(shares, device=logits.device, dtype=logits.dtype)
        return self._shares  # kept, so that not every step copies it to the device

    def identity(self) -> dict[str, Any]:
        """Return the identity of each teacher, and how they are combined."""
        own = {name: teacher.identity() for name, teacher in self.teachers.items()}
        how = {"weights": self.weights, "combine": self.combine, "multilabel": self.multilabel}
        averaged = {"temperature": self.temperature} if self.combine == "probabilities" else {}
        return {"kind": "EnsembleTeacher", "teachers": own, **how, **averaged}

    def to(self, device: torch.device | str) -> EnsembleTeacher:
        """Move all teachers."""
        for teacher in self.teachers.values():
            teacher.to(device)
        return self

    def close(self) -> None:
        """Remove taps from all models."""
        for teacher in self.teachers.values():
            teacher.close()

    def models(self) -> Iterator[nn.Module]:
        """Yield every model of every teacher."""
        for teacher in self.teachers.values():
            yield from teacher.models()


class EnsembleInfo(ModelInfo):
    """The `info` of several teachers: `logits` of all, `name/address` of one, `name/stack` for its layers."""

    def __init__(self, members: Mapping[str, ModelInfo]) -> None:
        self._members = members

    def layers(self, stack: str = "") -> int:
        """Return the number of layers of one teacher's stack."""
        member, rest = self._of(stack)
        return member.layers(rest)

    def feature(self, address: str) -> FeatureInfo:
        """Return what is known of one teacher's feature, or of a combined prediction.

        Raises:
            AddressError: if the teacher, or for a combined prediction one of them, does not have it, or widths differ.

        """
        if "/" in address:
            member, rest = self._of(address)
            return member.feature(rest)
        if address_kind(address) not in ("classes", "positions"):
            raise AddressError(
                f"'{address}' of which teacher? Only logits are combined; write {self._examples(address)}."
            )
        found = {name: member.feature(address) for name, member in self._members.items()}
        widths = {info.width for info in found.values()}
        if len(widths - {None}) > 1:
            listed = ", ".join(f"{name} {info.width}" for name, info in found.items())
            raise AddressError(f"The teachers' '{address}' differ in width ({listed}), so they cannot be combined.")
        stacks = {info.stack for info in found.values()}
        return FeatureInfo(
            address_kind(address),
            width=widths.pop() if len(widths) == 1 else None,
            stack=stacks.pop() if len(stacks) == 1 else "",
        )

    def check(self, addresses: Sequence[str]) -> None:
        """Raise `AddressError` for the first address that no teacher, or not every teacher, can give."""
        for address in addresses:
            self.feature(address)

    def _of(self, address: str) -> tuple[ModelInfo, str]:
        name, slash, rest = address.partition("/")
        if not slash:
            raise AddressError(
                f"Layers of which teacher? Give the match scheme a teacher_feature, such as {self._examples('hidden')}."
            )
        if name not in self._members:
            raise AddressError(f"There is no teacher '{name}' in this ensemble. {hint(name, self._members)}")
        return self._members[name], rest

    def _examples(self, address: str) -> str:
        return " or ".join(f"{name}/{address}" for name in self._members)


def _check_names(teachers: Mapping[str, object]) -> None:
    if not isinstance(teachers, Mapping) or not teachers:
        raise ConfigError("An ensemble needs teachers by name, such as {'a': teacher_a, 'b': teacher_b}.")
    for name in teachers:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ConfigError(f"Expected a teacher's name to be letters, digits and underscores but got {name!r}.")
    for name, other in combinations(teachers, 2):
        if teachers[name] is teachers[other] and isinstance(teachers[name], TeacherSource):
            raise ConfigError(
                f"Teachers '{name}' and '{other}' are one source, which returns one list of features: make two sources "
                "of the model, or give it a larger weight."
            )


def _fractions(weights: Mapping[str, float], names: list[str]) -> list[float]:
    if set(weights) != set(names):
        raise ConfigError(f"Expected one weight for each of {', '.join(names)} but got {', '.join(map(str, weights))}.")
    if not all(isinstance(weights[name], int | float) and not isinstance(weights[name], bool) for name in names):
        raise ConfigError(f"Expected teachers' weights to be numbers but got {dict(weights)}.")
    values = [float(weights[name]) for name in names]
    total = sum(values)
    if min(values) < 0 or not 0 < total < float("inf"):
        raise ConfigError(f"Teachers' weights cannot be negative or all zero, got {dict(weights)}.")
    return [value / total for value in values]


def _own_batch(batch: Batch, name: str) -> Batch:
    """Return a batch whose `teacher` part is this teacher's, where each has its own."""
    own = batch.get("teacher") if isinstance(batch, Mapping) else None
    if isinstance(batch, Mapping) and isinstance(own, Mapping) and isinstance(own.get(name), Mapping):
        return {**batch, "teacher": own[name]}
    return batch
