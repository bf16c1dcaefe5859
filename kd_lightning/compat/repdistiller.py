"""Losses of RepDistiller where their values are not those of ours; the others are ours, and PKT is mdistiller's.

It sums AT, NST and VID over the stages, where a term has their mean: multiply its weights by their number.
"""

from __future__ import annotations

from torch import Tensor, nn

from kd_lightning.compat.mdistiller import PKT
from kd_lightning.core.errors import MatchError
from kd_lightning.core.types import FeatureInfo
from kd_lightning.functional.samples import rows_of
from kd_lightning.losses.maps.base import check_stages, run, unbound
from kd_lightning.losses.relations.base import RelationLoss

__all__ = ["PKT", "CorrelationCongruence"]


class CorrelationCongruence(RelationLoss):
    """Mean over neighbouring rows of ⟨|s_b − t_b|, |s_{b+1} − t_{b+1}|⟩: another formula than `losses.` has under it.

    s and t are linear embeddings of both models' features, trained with the student. It is small where rows that differ
    follow on rows that do not: the order of the batch counts. Its weight is 0.02, of pooled features.

    Args:
        width: of the embeddings; None compares the features themselves, which then must have one width.
        gather: whether the rows of all devices are one batch.

    Raises:
        MatchError: if features are of another kind, several, or of unknown width.

    Example:
        >>> import torch
        >>> loss = CorrelationCongruence(width=None)
        >>> loss(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.zeros(2, 2))
        tensor(3.)

    """

    per_address = False

    def __init__(self, width: int | None = 128, gather: bool = True) -> None:
        super().__init__(gather)
        self.width = width
        self.equal_widths = width is None
        self.embed = nn.ModuleList()

    def bind(self, student: tuple[FeatureInfo, ...], teacher: tuple[FeatureInfo, ...]) -> None:
        """Build both embeddings.

        Raises:
            MatchError: if a feature is of another kind, there are several, or a width is unknown.

        """
        super().bind(student, teacher)
        if len(student) != 1 or len(teacher) != 1:
            raise MatchError("CorrelationCongruence compares one feature with one: write a term for each.")
        if self.width is not None:
            check_stages("CorrelationCongruence", student, teacher)
            self.embed = nn.ModuleList(nn.Linear(info.width or 0, self.width) for info in (*student, *teacher))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare features (B, D_s) and (B, D_t)."""
        own, target = rows_of("CorrelationCongruence", student, teacher)
        if self.width is not None:
            if not self.embed:
                raise MatchError(unbound(self, 1, 0))
            own, target = run(self.embed[0], own), run(self.embed[1], target)
        gap = (own - target).abs()
        return (gap[:-1] * gap[1:]).sum() / max(len(gap) - 1, 1)
