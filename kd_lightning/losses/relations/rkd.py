"""Relational knowledge distillation: distances and angles between samples."""

from __future__ import annotations

from torch import Tensor

from kd_lightning.functional.samples import rkd_angle, rkd_distance
from kd_lightning.losses.relations.base import RelationLoss


class RKDDistance(RelationLoss):
    """Mean over pairs of the smooth L1 of d_s − d_t, d the distances over their mean. Park et al. 2019 (1904.05068).

    Teaches how samples lie to one another, in features of any width (`pool`, sentence embeddings): no projection, no
    parameters, and nothing changes when features are moved, turned or scaled. The usual weight is 25, beside
    `RKDAngle` with 50. Of a single sample it is zero.

    Args:
        gather: whether the rows of all devices are one batch.

    Raises:
        MatchError: if features are tokens or attention.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
        >>> RKDDistance()(x, 10 * x + 1)
        tensor(0.)

    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare features (B, D_s) and (B, D_t), or maps."""
        return rkd_distance(student, teacher)


class RKDAngle(RelationLoss):
    """Mean over triplets of the smooth L1 of cos_s − cos_t, the cosine at a vertex. Park et al. 2019 (1904.05068).

    The angles between samples; see `RKDDistance`. The usual weight is 50. It takes time and memory of B³ + B²·D; of
    large batches a part at a time.

    Args:
        gather: whether the rows of all devices are one batch.

    Raises:
        MatchError: if features are tokens or attention.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 0.0]])
        >>> float(RKDAngle()(x, 10 * x + 1)) < 1e-9
        True

    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare features (B, D_s) and (B, D_t), or maps."""
        return rkd_angle(student, teacher)
