"""A comprehensive overhaul of feature distillation: in front of the activation, with a margin for what it cuts off."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_lightning.core.types import FeatureInfo
from kd_lightning.features.state import teacher_state
from kd_lightning.functional.precision import widen
from kd_lightning.losses.maps.base import BatchNorm, StageLoss, run


class Overhaul(StageLoss):
    """Σ_stages 2^(i − L) · Σ_{c,h,w} (s − t')² / B where s > t' or t' > 0, t' = max(t, m_c). OFD, 1904.01866, eq. 2.

    Features come from in front of the last ReLU of each stage (`stages.k.preact`), shallow ones first. A negative value
    of the teacher's says no more than "not active": the student need only stay below the margin m_c, the mean of the
    channel's negative values, which follows from the batch norm there. s is the student's map behind a trained 1×1
    convolution with batch norm. A sum over the map, so the usual weight is 0.001. A cache keeps the margins.

    Raises:
        MatchError: if features are no maps, a width is unknown, or the teacher's address is no batch norm, nor a module
            with a `norm` that is one.

    Example:
        >>> loss = Overhaul()
        >>> info = FeatureInfo("map", 2, module=nn.BatchNorm2d(2))
        >>> loss.bind((info,), (info,))
        >>> loss(torch.ones(1, 2, 2, 2), torch.full((1, 2, 2, 2), -9.0)).shape
        torch.Size([])

    """

    teacher_state = ("margins",)

    def build(self, student: FeatureInfo, teacher: FeatureInfo) -> nn.Module:
        """Return the connector and the margins of one stage."""
        return _Overhauled(student.width or 0, teacher.width or 0, self.margins(teacher))

    def margins(self, teacher: FeatureInfo) -> Tensor:
        """Return the margin of each channel of the teacher's, (C,)."""
        return teacher_state(teacher, "margins")

    def combine(self, values: Tensor) -> Tensor:
        """Return the sum over stages, in which each counts half of the next deeper one."""
        depth = torch.arange(len(values) - 1, -1, -1, device=values.device)
        return (values / 2.0**depth).sum()


class _Overhauled(nn.Module):
    margins: Tensor

    def __init__(self, width: int, out: int, margins: Tensor) -> None:
        super().__init__()
        self.connector = connector(width, out)
        self.register_buffer("margins", margins)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        own = run(self.connector, student)
        target = torch.maximum(widen(teacher), widen(self.margins)[:, None, None])
        return partial_distance(own, target).sum() / len(own)


def partial_distance(student: Tensor, target: Tensor) -> Tensor:
    """Return (s − t)² where s > t or t > 0, and 0 elsewhere; every entry by itself.

    Example:
        >>> partial_distance(torch.tensor([-3.0, -1.0]), torch.tensor([-2.0, -2.0]))
        tensor([0., 1.])

    """
    counts = (student > target) | (target > 0)
    return (student - target).square() * counts


def connector(width: int, out: int) -> nn.Module:
    """Return a 1×1 convolution with a batch norm, from the student's channels to the teacher's.

    Example:
        >>> connector(4, 8)(torch.zeros(2, 4, 3, 3)).shape
        torch.Size([2, 8, 3, 3])

    """
    convolution = nn.Conv2d(width, out, 1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, BatchNorm(out))
