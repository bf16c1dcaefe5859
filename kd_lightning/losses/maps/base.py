"""What losses on feature maps have in common: what they compare, and modules of their own for each stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from kd_lightning.core.errors import MatchError
from kd_lightning.core.types import FeatureInfo, Kind
from kd_lightning.functional.activation import maps_of_one_size
from kd_lightning.functional.masking import count
from kd_lightning.functional.precision import no_autocast, widen
from kd_lightning.losses.base import DistillationLoss

Features = Tensor | Sequence[Tensor]


class MapLoss(DistillationLoss):
    """Base of losses that compare maps; of several addresses each pair by itself, and the mean is the loss."""

    per_address = True
    widens = True
    kinds: ClassVar[tuple[Kind, ...]] = ("map",)
    """What it compares."""

    def bind(self, student: tuple[FeatureInfo, ...], teacher: tuple[FeatureInfo, ...]) -> None:
        """Check before the first step that all features are of a kind that the loss compares.

        Raises:
            MatchError: if one is known to be of another kind.

        """
        for info in (*student, *teacher):
            if info.kind not in (None, *self.kinds):
                expected = " or ".join(f"'{kind}'" for kind in self.kinds)
                raise MatchError(
                    f"{type(self).__name__} compares features of kind {expected}, and '{info.address}' is of kind "
                    f"'{info.kind}'."
                )

    def count(self, student: Features, teacher: Features, **given: Any) -> Tensor | None:
        """Return the number of samples."""
        first = student if isinstance(student, Tensor) else student[0]
        return count(first, None, first.shape[:1])


class StageLoss(MapLoss):
    """Base of losses that train modules of their own: one for each pair of features, built from their widths.

    A subclass writes `build(student, teacher)`, which returns a module that compares two maps. The loss is the mean
    over the pairs; the modules join the student's optimizer and the checkpoint, and are not exported.
    """

    per_address = False
    paired = True
    kinds: ClassVar[tuple[Kind, ...]] = ("map", "vector")

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        self._widths: list[tuple[int | None, int | None]] = []

    def bind(self, student: tuple[FeatureInfo, ...], teacher: tuple[FeatureInfo, ...]) -> None:
        """Build a module for each pair.

        Raises:
            MatchError: if the sides have unequal numbers of features, one of another kind, or of unknown width.

        """
        super().bind(student, teacher)
        check_stages(type(self).__name__, student, teacher)
        pairs = list(zip(student, teacher, strict=True))
        self._widths = [(own.width, target.width) for own, target in pairs]
        self.stages = nn.ModuleList(self.build(*pair) for pair in pairs)

    def build(self, student: FeatureInfo, teacher: FeatureInfo) -> nn.Module:
        """Return a module whose `forward(student, teacher)` compares maps of two features."""
        raise NotImplementedError(f"{type(self).__name__} must have a method `build(student, teacher)`.")

    def forward(self, student: Features, teacher: Features) -> Tensor:
        """Compare maps (B, C, H, W) or vectors (B, D), one for each side or tuples of them."""
        own, target = as_maps(student), as_maps(teacher)
        if not len(own) == len(target) == len(self.stages):
            raise MatchError(unbound(self, max(len(own), len(target)), len(self.stages)))
        pairs = list(zip(own, target, strict=True))
        for (s, t), widths in zip(pairs, self._widths, strict=True):
            maps_of_one_size(type(self).__name__, s, t)
            if (s.shape[1], t.shape[1]) != widths:
                raise MatchError(unequal(type(self).__name__, s, t, widths))
        values = [stage(s, t.detach()) for stage, (s, t) in zip(self.stages, pairs, strict=True)]
        return self.combine(torch.stack(values))

    def combine(self, values: Tensor) -> Tensor:
        """Return the loss of the values of all stages, (stages,): their mean."""
        return values.mean()


def as_maps(features: Features) -> list[Tensor]:
    """Return features as a list of maps; a vector (B, D) is one of a single pixel.

    Example:
        >>> [x.shape for x in as_maps((torch.zeros(2, 4, 8, 8), torch.zeros(2, 5)))]
        [torch.Size([2, 4, 8, 8]), torch.Size([2, 5, 1, 1])]

    """
    listed = [features] if isinstance(features, Tensor) else list(features)
    return [x[:, :, None, None] if x.dim() == 2 else x for x in listed]


def check_stages(loss: str, student: Sequence[FeatureInfo], teacher: Sequence[FeatureInfo]) -> None:
    """Check that there are as many features on both sides, whose widths are known.

    Raises:
        MatchError: if there are not.

    """
    if len(student) != len(teacher):
        raise MatchError(
            f"{loss} compares stages in pairs, but there are {len(student)} of the student's and {len(teacher)} of the "
            "teacher's."
        )
    for side, infos in (("student", student), ("teacher", teacher)):
        unknown = next((info for info in infos if info.width is None), None)
        if unknown is not None:
            raise MatchError(
                f"{loss} builds modules from widths, and that of the {side}'s '{unknown.address}' cannot be known "
                "before it runs: address a module that tells it, such as a convolution or its norm."
            )


def unequal(loss: str, student: Tensor, teacher: Tensor, widths: tuple[int | None, int | None] | None = None) -> str:
    """Return the message for channels that a loss was not bound to."""
    expected = "equal channels" if widths is None else f"channels {widths[0]} and {widths[1]}, which it was bound to,"
    return f"{loss} needs {expected} but got {tuple(student.shape)} and {tuple(teacher.shape)}."


def unbound(loss: nn.Module, got: int, built: int) -> str:
    """Return the message for features that modules were not built for."""
    name = type(loss).__name__
    if built:
        return f"{name} was bound to {built} stages and got {got}."
    return (
        f"{name} has no modules yet: a Term builds them when a DistillationModule is made; alone, call "
        "loss.bind(student, teacher) with a FeatureInfo of each feature."
    )


class BatchNorm(nn.BatchNorm2d):
    """A batch norm that normalises a single value per channel, which has no spread, by its running statistics.

    PyTorch raises an error there: a last batch of one row would end a training.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        if self.training and x.numel() == x.shape[1]:
            return batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def run(module: nn.Module, x: Tensor) -> Tensor:
    """Return `module(x)` in the precision of its parameters, also in an autocast region, and then at least float32."""
    with no_autocast(x):
        return widen(module(x.to(next(module.parameters()).dtype)))
