"""Attentive feature distillation: channels weighted by what the teacher's own map says of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from kd_lightning.core.types import FeatureInfo
from kd_lightning.functional.precision import widen
from kd_lightning.functional.unit import unit
from kd_lightning.losses.maps.base import StageLoss, run
from kd_lightning.losses.options import check_positive

EPS = 1e-6
"""What is added to the norm of a channel."""


class AFD(StageLoss):
    """Mean over samples of Σ_c ρ_c · mean over pixels of (F̂_s − F̂_t)², ρ learned. Wang et al., ICLR 2020, eq. 5 and 6.

    F̂ are channels of unit length over the pixels; ρ, which sums to one over the channels, is a sigmoid of two 1×1
    convolutions of the teacher's pooled map: channels are weighted for each image. The form of KD-Zoo, which is not in
    all the paper's (another AFD is of AAAI 2021). The usual weight is 500, of the mean over three stages. ρ is trained
    by the same loss and can flee to channels that are easy: its entropy is logged (`train/<term>/entropy_1`, log C
    where all count alike). Channels must agree.

    Args:
        reduction: hidden channels of ρ as a share of the teacher's.

    Raises:
        ConfigError: if `reduction` leaves no channel.
        MatchError: if features are no maps, or widths differ or are unknown.

    Example:
        >>> import torch
        >>> loss = AFD()
        >>> loss.bind((FeatureInfo("map", 4),), (FeatureInfo("map", 4),))
        >>> x = torch.randn(2, 4, 3, 3)
        >>> float(loss(x, 2 * x).detach()) < 1e-6
        True

    """

    equal_widths = True
    kinds = ("map",)

    def __init__(self, reduction: float = 1.0) -> None:
        super().__init__()
        check_positive("reduction", reduction)
        self.reduction = reduction

    def build(self, student: FeatureInfo, teacher: FeatureInfo) -> nn.Module:
        """Return the attention over one stage's channels."""
        width = teacher.width or 0
        return _Attentive(width, max(1, int(width * self.reduction)))

    @property
    def diagnostics(self) -> Mapping[str, Tensor]:
        """The mean entropy of ρ in the last batch, of each stage from 1: `entropy_1`, …."""
        return {f"entropy_{k}": stage.entropy for k, stage in enumerate(self.stages, start=1)}  # type: ignore[misc]


class _Attentive(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        layers = nn.Conv2d(width, hidden, 1), nn.Conv2d(hidden, width, 1)
        self.attention = nn.Sequential(layers[0], nn.ReLU(), layers[1])
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.constant_(layer.bias, 0.0)  # type: ignore[arg-type]
        self.entropy = torch.zeros(())

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        scores = run(self.attention, widen(teacher).mean((2, 3), keepdim=True)).flatten(1)
        rho = logsigmoid(scores).softmax(1)  # sigmoids over their sum, also where all of them are 0
        self.entropy = torch.special.entr(rho.detach()).sum(1).mean()
        gap = (_unit(student) - _unit(teacher)).square().mean(2)
        return (rho * gap).sum(1).mean()


def _unit(features: Tensor) -> Tensor:
    """Return (B, C, H·W) with channels of unit length."""
    return unit(widen(features).flatten(2), eps=EPS)
