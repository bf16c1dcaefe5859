"""Match schemes: a rule and a layer map that become terms once the two depths are known."""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from kd_lightning.core.arguments import check_finite_number
from kd_lightning.core.errors import ConfigError, MatchError
from kd_lightning.core.types import ModelInfo, Schedule
from kd_lightning.functional.maps import Pooling
from kd_lightning.losses import EMD
from kd_lightning.objective.layer_maps import LEARNED, LayerMap, layer_map
from kd_lightning.objective.match import Match
from kd_lightning.objective.projections import Projection
from kd_lightning.objective.sample_weights import SampleWeight
from kd_lightning.objective.term import Term, one_line


class Scheme(ABC):
    """What stands in an objective like a term, and becomes several once the models are known."""

    weight: float
    """Of each term."""

    @abstractmethod
    def expand(self, name: str, student: ModelInfo, teacher: ModelInfo | None) -> dict[str, Term]:
        """Return the named terms for two models; they are not yet bound.

        Args:
            name: of the scheme in its objective.
            student: what is known of the student.
            teacher: what is known of the teacher, if there is one.

        Raises:
            MatchError: if the scheme does not fit them.

        """

    @abstractmethod
    def taught_by(self, teacher: str) -> Scheme:
        """Return a copy whose teacher's side is one of several teachers."""


class MatchScheme(Scheme):
    """One loss on many layers, written once for teachers and students of any depth and width.

    In an objective it stands like a term; when the objective is bound to the models it becomes one term per pair of
    layers, named `<scheme>_<student layer>`. With `layers="emd"` it becomes one term, named like the scheme, over all
    layers of both models, whose map is learned; its student layers share one projection.

    Args:
        feature: what is matched on each layer: `hidden`, `attention`, `query`, … or with a stack, `encoder.hidden`.
        loss: copied for each pair. With `emd`, the loss between two layers, or `losses.EMD` with options of its own.
        layers: `uniform`, `skip`, `last`, `top`, explicit `(student, teacher)` pairs, or `emd`.
        embeddings: also match layer 0, the embeddings' output (hidden features only); with `emd` it is one more layer
            on both sides.
        pairs: give the loss each layer twice, as losses over pairs of layers (NST, FSP) want it: `[k, k]`.
        every: keep only student layers divisible by this (TextBrewer's `small` schemes: 2).
        student_layers: raise an error for a student of any other depth (TextBrewer's `L3…`, `L4…`, `L6…` names); None
            takes any.
        teacher_feature: the teacher's feature where it differs from the student's; `a/hidden` of one of several.
        weight: of each term.
        schedule: of each term's weight.
        projection: used only where the two widths differ.
        projection_lr: learning rate of the projections.
        resize: of each term: how feature maps of different sizes become comparable.
        sample_weight: of each term: how much rows count.

    Raises:
        ConfigError: if the loss is `losses.EMD` and `layers` is not `emd`.

    Example:
        >>> from torch import nn
        >>> scheme = MatchScheme("hidden", nn.MSELoss(), embeddings=True)
        >>> [str(match) for _, match in scheme.matches(student_layers=2, teacher_layers=6)]
        ['hidden.0 ← hidden.0', 'hidden.1 ← hidden.3', 'hidden.2 ← hidden.6']

    """

    def __init__(
        self,
        feature: str,
        loss: Callable[..., Tensor],
        layers: LayerMap = "uniform",
        embeddings: bool = False,
        pairs: bool = False,
        every: int = 1,
        student_layers: int | None = None,
        teacher_feature: str | None = None,
        weight: float = 1.0,
        schedule: Schedule | None = None,
        projection: Projection = None,
        projection_lr: float | None = None,
        resize: Pooling | None = "avg",
        sample_weight: SampleWeight | None = None,
    ) -> None:
        if isinstance(loss, EMD) and layers != LEARNED:
            raise ConfigError(f"losses.EMD learns which layers belong together: use layers='emd', not {layers!r}.")
        check_finite_number("weight", weight)
        check_finite_number("every", every, least=1)
        self.feature, self.teacher_feature = feature, teacher_feature or feature
        self.loss = loss
        self.layers = layers
        self.embeddings, self.pairs, self.every = embeddings, pairs, every
        self.student_layers = student_layers
        self.weight, self.schedule = weight, schedule
        self.projection, self.projection_lr = projection, projection_lr
        self.resize: Pooling | None = resize
        self.sample_weight = sample_weight

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self)).parameters
        options = {k: v for k, v in vars(self).items() if k not in ("feature", "loss") and v != parameters[k].default}
        if self.teacher_feature == self.feature:
            options.pop("teacher_feature")
        parts = [self.feature, one_line(self.loss), *(f"{k}={one_line(v)}" for k, v in options.items())]
        return f"MatchScheme({', '.join(parts)})"

    def matches(self, student_layers: int, teacher_layers: int) -> list[tuple[int, Match]]:
        """Return `(student layer, match)` for two depths; with `emd` one match of all layers, under the last.

        Raises:
            MatchError: if the scheme is for another depth, its layer map does not fit, or nothing is left to match.

        """
        if self.student_layers not in (None, student_layers):
            raise MatchError(
                f"it is made for {self.student_layers} student layers, but the student has {student_layers}."
            )
        if self.layers == LEARNED:
            return [(student_layers, self._all_layers(student_layers, teacher_layers))]
        mapped = layer_map(self.layers, student_layers, teacher_layers)
        kept = ([(0, 0)] if self.embeddings else []) + [pair for pair in mapped if pair[0] % self.every == 0]
        if not kept:
            raise MatchError(self._nothing_left(student_layers))
        return [(s, Match(self._side(self.feature, s), self._side(self.teacher_feature, t))) for s, t in kept]

    def _all_layers(self, student_layers: int, teacher_layers: int) -> Match:
        if self.pairs:
            raise MatchError("pairs=True gives a loss each layer twice, which layers='emd' cannot. Leave pairs out.")
        first = 0 if self.embeddings else 1
        own = [s for s in range(first, student_layers + 1) if s % self.every == 0]
        if not own:
            raise MatchError(self._nothing_left(student_layers))
        theirs = range(first, teacher_layers + 1)
        return Match([f"{self.feature}.{s}" for s in own], [f"{self.teacher_feature}.{t}" for t in theirs])

    def _nothing_left(self, student_layers: int) -> str:
        return f"no student layer of {student_layers} is left to match with every={self.every}."

    def expand(self, name: str, student: ModelInfo, teacher: ModelInfo | None) -> dict[str, Term]:
        """Return the named terms for two models; they are not yet bound."""
        if teacher is None:
            raise MatchError(f"Match scheme '{name}' needs a teacher, but none was given.")
        try:
            matches = self.matches(student.layers(_stack(self.feature)), teacher.layers(_stack(self.teacher_feature)))
        except MatchError as error:
            raise MatchError(f"Match scheme '{name}': {error}") from None
        learned = self.layers == LEARNED
        return {name if learned else f"{name}_{layer}": self._term(match, student, teacher) for layer, match in matches}

    def taught_by(self, teacher: str) -> MatchScheme:
        """Return a copy whose teacher's side is one of several teachers."""
        made = copy.deepcopy(self)
        made.teacher_feature = f"{teacher}/{self.teacher_feature}"
        return made

    def _term(self, match: Match, student: ModelInfo, teacher: ModelInfo) -> Term:
        own, target = student.width(match.student_addresses[0]), teacher.width(match.teacher_addresses[0])
        projection = None if own is not None and own == target else copy.deepcopy(self.projection)
        loss = copy.deepcopy(self.loss)
        if self.layers == LEARNED and not isinstance(loss, EMD):
            loss = EMD(loss)
        options = (self.weight, self.schedule, projection, self.projection_lr, self.resize, self.sample_weight)
        return Term(match, loss, *options)

    def _side(self, feature: str, layer: int) -> str | tuple[str, str]:
        address = f"{feature}.{layer}"
        return (address, address) if self.pairs else address


def _stack(feature: str) -> str:
    """Return what is in front of a feature's name: `encoder` of `encoder.hidden`, `a/` of `a/hidden`, else nothing."""
    teacher, slash, rest = feature.rpartition("/")
    return f"{teacher}{slash}{rest.rpartition('.')[0]}"
