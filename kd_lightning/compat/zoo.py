"""Losses of Knowledge-Distillation-Zoo where their values are not those of ours; the others are ours.

`kd.losses.VID(eps=1e-6)` is its VID, `kd.losses.SoftTarget` its ST, and so on for NST, FSP, SP, CC, AFD and IRG.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_lightning import losses
from kd_lightning.core.types import FeatureInfo
from kd_lightning.functional.activation import attention_transfer
from kd_lightning.functional.precision import widen
from kd_lightning.functional.samples import pkt, rkd_distance
from kd_lightning.losses.maps.base import StageLoss, run
from kd_lightning.losses.maps.overhaul import connector, partial_distance

__all__ = ["PKT", "AttentionTransfer", "Overhaul", "RKDDistance"]

EPS = 1e-6


class AttentionTransfer(losses.AttentionTransfer):
    """`losses.AttentionTransfer` with 1e-6 added to the length of an attention map: 1e-7 of the value, more near zero.

    Its weight is 1000, of the mean over three stages.

    Example:
        >>> AttentionTransfer()(torch.ones(1, 2, 2, 2), torch.ones(1, 2, 2, 2))
        tensor(0.)

    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare maps (B, C_s, H, W) and (B, C_t, H, W)."""
        return attention_transfer(student, teacher, self.power, self.norm, EPS)


class PKT(losses.PKT):
    """`losses.PKT` with ε = 1e-6, which is also added to the lengths of rows: 1e-5 of the value. Its weight is 10⁴.

    Example:
        >>> x = torch.eye(3)
        >>> PKT()(x, x)
        tensor(0.)

    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare features (B, D_s) and (B, D_t), or maps."""
        return pkt(student, teacher, EPS, added=EPS)


class RKDDistance(losses.RKDDistance):
    """`losses.RKDDistance` where equal samples are 1e-6 apart: the same but for them. Its weight is 25.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
        >>> RKDDistance()(x, 10 * x + 1)
        tensor(0.)

    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare features (B, D_s) and (B, D_t), or maps."""
        return rkd_distance(student, teacher, shortest=EPS)


class Overhaul(StageLoss):
    """OFD with other margins and another mean than `losses.Overhaul`. Its weight is 0.5, of the mean over three stages.

    A channel's margin is the mean of its negative values in this batch, so no batch norm of the teacher's is asked for;
    the value is the mean over all entries, C·H·W times smaller than the sum, and stages count alike.

    Example:
        >>> loss = Overhaul()
        >>> loss.bind((FeatureInfo("map", 2),), (FeatureInfo("map", 3),))
        >>> loss(torch.ones(2, 2, 2, 2), torch.full((2, 3, 2, 2), -9.0)).shape
        torch.Size([])

    """

    def build(self, student: FeatureInfo, teacher: FeatureInfo) -> nn.Module:
        """Return the connector of one stage."""
        return _Overhauled(student.width or 0, teacher.width or 0)


class _Overhauled(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.connector = connector(width, out)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        target = widen(teacher)
        negative = (target < 0).sum((0, 2, 3), keepdim=True)
        margins = target.clamp(max=0).sum((0, 2, 3), keepdim=True) / (negative + EPS)
        return partial_distance(run(self.connector, student), torch.maximum(target, margins)).mean()
