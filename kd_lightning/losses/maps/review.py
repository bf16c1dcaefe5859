"""Knowledge review: each stage of the teacher teaches this stage and all shallower ones of the student."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, mse_loss

from kd_lightning.core.errors import MatchError
from kd_lightning.core.types import FeatureInfo
from kd_lightning.functional.precision import no_autocast, widen
from kd_lightning.losses.maps.base import BatchNorm, Features, MapLoss, as_maps, check_stages, unbound

POOLED = (4, 2, 1)
"""Heights and widths to which maps are pooled beside their own."""

WIDEST = 512
"""The most channels that the student's maps are fused in."""


class ReviewKD(MapLoss):
    """Σ_stages HCL(fused student map, teacher map), fused from deep to shallow. Chen et al. 2021 (2104.09044).

    From the deepest stage up, the student's map and what came from the stage below are fused by learned attention (ABF,
    figure 4) and compared with the teacher's map of the stage by HCL: squared differences at full size and of means
    over a grid of 4, 2 and 1. One of the strongest losses on maps for convolutional networks of one family, and the
    most expensive: a 3×3 convolution of the teacher's width per stage. Addresses are given from shallow to deep, the
    last one usually `pool`; the authors take the teacher's in front of the last ReLU (`stages.k.preact`) and let the
    weight rise over the first epochs: `schedule=kd.schedules.Warmup(share=0.08)`. Give the term `resize=None`: sizes
    are fitted here.

    Raises:
        MatchError: if features are no maps or vectors, or a width is unknown.

    Example:
        >>> loss = ReviewKD()
        >>> info = FeatureInfo("map", 8), FeatureInfo("vector", 8)
        >>> loss.bind(info, info)
        >>> x = torch.randn(2, 8, 4, 4), torch.randn(2, 8)
        >>> loss(x, x).shape
        torch.Size([])

    """

    per_address = False
    paired = True
    kinds = ("map", "vector")

    def __init__(self) -> None:
        super().__init__()
        self.fusions = nn.ModuleList()

    def bind(self, student: tuple[FeatureInfo, ...], teacher: tuple[FeatureInfo, ...]) -> None:
        """Build the fusion of each stage.

        Raises:
            MatchError: if the sides have unequal numbers of features, one of another kind, or of unknown width.

        """
        super().bind(student, teacher)
        check_stages("ReviewKD", student, teacher)
        middle = min(WIDEST, student[-1].width or 0)
        widths = [(s.width or 0, t.width or 0) for s, t in zip(student, teacher, strict=True)]
        deepest = len(widths) - 1
        self.fusions = nn.ModuleList(
            Fusion(width, middle, out, gated=k < deepest) for k, (width, out) in enumerate(widths)
        )

    def forward(self, student: Features, teacher: Features) -> Tensor:
        """Compare tuples of maps (B, C, H, W), from shallow to deep; a vector (B, D) is a map of one pixel."""
        own, target = as_maps(student), as_maps(teacher)
        if len(own) != len(self.fusions):
            raise MatchError(unbound(self, len(own), len(self.fusions)))
        fused, total = None, []
        with no_autocast(own[0]):
            for fusion, s, t in reversed(list(zip(self.fusions, own, target, strict=True))):
                out, fused = fusion(s, fused, t.shape[2:])
                total.append(hierarchical_distance(out, widen(t.detach())))
        return torch.stack(total).sum()


class Fusion(nn.Module):
    """Attention based fusion: the student's map and that of the stage below, mixed by a learned gate for each pixel.

    Args:
        width: channels of the student's map.
        middle: channels in which maps are fused.
        out: the teacher's channels.
        gated: whether there is a stage below.

    Example:
        >>> out, fused = Fusion(4, 8, 6, gated=True)(torch.zeros(2, 4, 4, 4), torch.zeros(2, 8, 2, 2), (4, 4))
        >>> out.shape, fused.shape
        (torch.Size([2, 6, 4, 4]), torch.Size([2, 8, 4, 4]))

    """

    def __init__(self, width: int, middle: int, out: int, gated: bool) -> None:
        super().__init__()
        reduce, expand = nn.Conv2d(width, middle, 1, bias=False), nn.Conv2d(middle, out, 3, padding=1, bias=False)
        self.reduce = nn.Sequential(reduce, BatchNorm(middle))
        self.gate = nn.Conv2d(2 * middle, 2, 1) if gated else None
        self.expand = nn.Sequential(expand, BatchNorm(out))
        for convolution in (reduce, expand):
            nn.init.kaiming_uniform_(convolution.weight, a=1)

    def forward(self, x: Tensor, below: Tensor | None, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the map to compare (B, out, *size) and the fused one (B, middle, *size)."""
        x = self.reduce(x.to(next(self.parameters()).dtype))
        if self.gate is not None and below is not None:
            below = _resized(below, x.shape[2:])
            share = self.gate(torch.cat([x, below], 1)).sigmoid()
            x = x * share[:, :1] + below * share[:, 1:]
        x = _resized(x, size)
        return widen(self.expand(x)), x


def hierarchical_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return HCL, the hierarchical context loss: Σ_k 2⁻ᵏ mse_k / Σ_k 2⁻ᵏ at full size and of means over smaller grids.

    Example:
        >>> float(hierarchical_distance(torch.ones(1, 2, 8, 8), torch.zeros(1, 2, 8, 8)))
        1.0

    """
    total, weights = mse_loss(student, teacher), 1.0
    smaller = [size for size in POOLED if size < student.shape[2]]
    for k, size in enumerate(smaller, start=1):
        own, target = (adaptive_avg_pool2d(x, (size, size)) for x in (student, teacher))
        total, weights = total + mse_loss(own, target) / 2**k, weights + 1 / 2**k
    return total / weights


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    return x if tuple(x.shape[2:]) == tuple(size) else interpolate(x, tuple(size), mode="nearest")
