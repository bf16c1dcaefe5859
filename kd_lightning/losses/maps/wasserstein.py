"""Feature maps compared as normal distributions, by their means and spreads."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from kd_lightning.core.arguments import check_finite_number
from kd_lightning.core.types import FeatureInfo
from kd_lightning.functional.precision import widen
from kd_lightning.losses.maps.base import BatchNorm, StageLoss, run
from kd_lightning.losses.options import check_count

EPS = 1e-5
"""What is added to a variance."""


class WKDF(StageLoss):
    """(mean_weight · Σ_c (μ_s − μ_t)² + Σ_c (σ_s − σ_t)²) / (g²·B), over a grid of g × g cells. Lv et al. 2024.

    2412.08139, section 3.2: the Wasserstein distance of two normal distributions, whose mean μ and standard deviation
    σ each channel has over the pixels of a cell; the student's map behind a trained 1×1 convolution with batch norm and
    ReLU. For the last stage, where it says more than a mean square over pixels; σ of a cell of one pixel is none. The
    authors' weights are 0.08 and 0.3 on CIFAR-100 (g = 1 and 4), lowered along a cosine after 150 of 240 epochs.

    Args:
        mean_weight: how much means count beside spreads: 4 and 3 there, 2 on ImageNet.
        grid: g.
        hidden: channels between three convolutions, 1×1, 3×3 and 1×1, in front of the norm; None: one of 1×1. The
            authors have 256 on ImageNet.

    Raises:
        ConfigError: if `grid` or `hidden` is below 1.
        MatchError: if features are no maps, or a width is unknown.

    Example:
        >>> loss = WKDF()
        >>> loss.bind((FeatureInfo("map", 4),), (FeatureInfo("map", 8),))
        >>> loss(torch.zeros(2, 4, 4, 4), torch.zeros(2, 8, 4, 4)).shape
        torch.Size([])

    """

    def __init__(self, mean_weight: float = 4.0, grid: int = 1, hidden: int | None = None) -> None:
        super().__init__()
        check_count("grid", grid)
        if hidden is not None:
            check_count("hidden", hidden)
        check_finite_number("mean_weight", mean_weight, least=0)
        self.mean_weight, self.grid, self.hidden = mean_weight, grid, hidden

    def build(self, student: FeatureInfo, teacher: FeatureInfo) -> nn.Module:
        """Return the projector of one stage."""
        projector = _projector(student.width or 0, teacher.width or 0, self.hidden)
        return _Normal(projector, self.mean_weight, self.grid)


def _projector(width: int, out: int, hidden: int | None) -> nn.Module:
    convolutions: list[nn.Module] = [nn.Conv2d(width, out, 1, bias=False)]  # the norm has one
    if hidden is not None:
        middle = nn.Conv2d(hidden, hidden, 3, padding=1)
        convolutions = [nn.Conv2d(width, hidden, 1), middle, nn.Conv2d(hidden, out, 1, bias=False)]
    return nn.Sequential(*convolutions, BatchNorm(out), nn.ReLU())


class _Normal(nn.Module):
    def __init__(self, projector: nn.Module, mean_weight: float, grid: int) -> None:
        super().__init__()
        self.projector = projector
        self.mean_weight, self.grid = mean_weight, grid

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        own, target = run(self.projector, student), widen(teacher)
        cells = list(zip(_cells(own, self.grid), _cells(target, self.grid), strict=True))
        total = own.new_zeros(())
        for s, t in cells:
            means = (s.mean(2) - t.mean(2)).square().sum()
            total = total + self.mean_weight * means + (_spread(s) - _spread(t)).square().sum()
        return total / (self.grid**2 * len(own))


def _cells(x: Tensor, grid: int) -> Iterator[Tensor]:
    """Yield the pixels of each cell of a grid, (B, C, n), cut as adaptive pooling cuts."""
    height, width = x.shape[2:]
    for i in range(grid):
        rows = slice(i * height // grid, -(-(i + 1) * height // grid))
        for j in range(grid):
            yield x[:, :, rows, j * width // grid : -(-(j + 1) * width // grid)].flatten(2)


def _spread(pixels: Tensor) -> Tensor:
    """Return the standard deviation over pixels, whose variance has n − 1 below; of one pixel that of none."""
    variance = pixels.var(2) if pixels.shape[2] > 1 else torch.zeros_like(pixels[..., 0])
    return (variance + EPS).sqrt()
