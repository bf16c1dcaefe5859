"""Variational information distillation: how well the teacher's map can be told from the student's."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from kd_lightning.core.errors import ConfigError
from kd_lightning.core.types import FeatureInfo
from kd_lightning.functional.precision import widen
from kd_lightning.losses.maps.base import StageLoss, run
from kd_lightning.losses.options import check_positive


class VID(StageLoss):
    """½ · mean of (μ(F_s) − F_t)² / σ_c² + log σ_c², with trained μ and σ. Ahn et al. 2019 (1904.05835), eq. 5 and 6.

    A lower bound on what two layers have in common: the teacher's channels as normal variables whose means μ three 1×1
    convolutions make of the student's map, and whose variances σ_c² = softplus(a_c) + eps are learned, so that channels
    the student cannot tell count less. The value may be negative. The usual weight is 1. Two convolutions of the
    teacher's width per stage are what it costs.

    Args:
        variance: what each σ² starts from.
        eps: added to the variance.

    Raises:
        ConfigError: if `eps` is not positive, or `variance` is not above it.
        MatchError: if features are no maps or vectors, or a width is unknown.

    Example:
        >>> loss = VID()
        >>> loss.bind((FeatureInfo("map", 4),), (FeatureInfo("map", 8),))
        >>> loss(torch.zeros(2, 4, 3, 3), torch.zeros(2, 8, 3, 3)).shape
        torch.Size([])

    """

    def __init__(self, variance: float = 5.0, eps: float = 1e-5) -> None:
        super().__init__()
        check_positive("variance", variance)
        check_positive("eps", eps)
        if variance <= eps:
            raise ConfigError(f"Expected argument `variance` to be above `eps` but got {variance!r} and {eps!r}.")
        self.variance, self.eps = variance, eps

    def build(self, student: FeatureInfo, teacher: FeatureInfo) -> nn.Module:
        """Return the regressor and the variances of one stage."""
        return _Variational(student.width or 0, teacher.width or 0, self.variance, self.eps)


class _Variational(nn.Module):
    def __init__(self, width: int, out: int, variance: float, eps: float) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(size, out, 1, bias=False) for size in (width, out, out)]
        self.mean = nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), convolutions[2])
        start = variance - eps
        self.spread = nn.Parameter(torch.full((out,), start + math.log(-math.expm1(-start))))  # softplus of it is start
        self.eps = eps

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        variance = (softplus(widen(self.spread)) + self.eps)[:, None, None]
        gap = run(self.mean, student) - widen(teacher)
        return (gap.square() / variance + variance.log()).mean() / 2
