"""Losses of MMRazor 1.0.0 where their values are not those of ours; the others are ours.

Its OFD is `kd.losses.Overhaul` over 1000, with weights 0.25, 0.5 and 1 of the stages: the same as 0.001 of ours.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from kd_lightning import losses
from kd_lightning.functional.logits import Divergence
from kd_lightning.functional.samples import rkd_angle, rkd_distance, rows_of
from kd_lightning.functional.unit import unit

__all__ = ["WSLD", "RKDAngle", "RKDDistance"]


class RKDDistance(losses.RKDDistance):
    """`losses.RKDDistance` of rows of unit length: another value, about half of it on random features.

    Example:
        >>> import torch
        >>> x = torch.eye(3)
        >>> RKDDistance()(x, torch.diag(torch.tensor([1.0, 2.0, 3.0])))
        tensor(0.)

    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare features (B, D_s) and (B, D_t), or maps."""
        own, target = rows_of("RKDDistance", student, teacher)
        return rkd_distance(unit(own), unit(target))


class RKDAngle(losses.RKDAngle):
    """`losses.RKDAngle` of rows of unit length: another value, less than half of it on random features.

    Example:
        >>> import torch
        >>> x = torch.eye(3)
        >>> RKDAngle()(x, torch.diag(torch.tensor([1.0, 2.0, 3.0])))
        tensor(0.)

    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare features (B, D_s) and (B, D_t), or maps."""
        own, target = rows_of("RKDAngle", student, teacher)
        return rkd_angle(unit(own), unit(target))


class WSLD(losses.WSLD):
    """`losses.WSLD` with cross entropies for divergences: more by the teacher's entropies, with the same gradient.

    The authors' code has them too. The weight is 2.5, with a temperature of 2.

    Example:
        >>> import torch
        >>> WSLD(temperature=2.0)(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]), labels=torch.tensor([0]))
        tensor(1.1370)

    """

    divergence: ClassVar[Divergence] = "ce"
