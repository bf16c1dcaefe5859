"""Masked generative distillation: the teacher's whole map from a part of the student's."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from kd_lightning.core.arguments import is_finite_number
from kd_lightning.core.errors import ConfigError, MatchError
from kd_lightning.core.types import FeatureInfo
from kd_lightning.functional.activation import maps_of_one_size
from kd_lightning.functional.noise import uniform
from kd_lightning.functional.precision import widen
from kd_lightning.losses.maps.base import MapLoss, check_stages, run, unbound, unequal
from kd_lightning.losses.options import check_choice


class MaskedGenerative(MapLoss):
    """‖G(M ⊙ align(F_s)) − F_t‖² / B, G two 3×3 convolutions, M a random mask. MGD, Yang et al. 2022 (2205.01529).

    A student that can make the whole map of the teacher from a part of its own has learned more than to copy it. For
    detection and segmentation (masks of pixels) and classification (masks of channels). A sum over the map, so weights
    are small: 2e-5 for one-stage detectors, 5e-7 for two-stage ones, 7e-5 for classification on ImageNet. The mask is
    a function of seed, step and `sample_id`. Two 3×3 convolutions of the teacher's width are what it costs.

    Args:
        masked: λ, the share that is masked: 0.65 and 0.45 for detectors, 0.75 for segmentation, 0.15 of channels.
        per: what is masked, "pixel" or "channel".

    Raises:
        ConfigError: if `masked` is no share, or `per` is neither.
        MatchError: if features are no maps of one size, or a width is unknown.

    Example:
        >>> import torch
        >>> loss = MaskedGenerative()
        >>> loss.bind((FeatureInfo("map", 4),), (FeatureInfo("map", 8),))
        >>> loss(torch.zeros(2, 4, 4, 4), torch.zeros(2, 8, 4, 4), seed=3).shape
        torch.Size([])

    """

    per_address = False

    def __init__(self, masked: float = 0.65, per: Literal["pixel", "channel"] = "pixel") -> None:
        super().__init__()
        if not is_finite_number(masked) or not 0 <= masked < 1:
            raise ConfigError(f"Expected argument `masked` to be a share in [0, 1) but got {masked!r}.")
        check_choice("per", per, ("pixel", "channel"))
        self.masked, self.per = masked, per
        self.align: nn.Module = nn.Identity()
        self.generate: nn.Module | None = None

    def bind(self, student: tuple[FeatureInfo, ...], teacher: tuple[FeatureInfo, ...]) -> None:
        """Build the alignment, where widths differ, and the generator.

        Raises:
            MatchError: if a side has several features, one that is no map, or of unknown width.

        """
        super().bind(student, teacher)
        if len(student) != 1 or len(teacher) != 1:
            raise MatchError("MaskedGenerative compares one map with one: write a term for each stage.")
        check_stages("MaskedGenerative", student, teacher)
        width, out = student[0].width or 0, teacher[0].width or 0
        self.align = nn.Conv2d(width, out, 1) if width != out else nn.Identity()
        self.generate = nn.Sequential(nn.Conv2d(out, out, 3, padding=1), nn.ReLU(), nn.Conv2d(out, out, 3, padding=1))

    def forward(self, student: Tensor, teacher: Tensor, sample_id: Tensor | None = None, seed: int = 0) -> Tensor:
        """Compare maps (B, C_s, H, W) and (B, C_t, H, W)."""
        if self.generate is None:
            raise MatchError(unbound(self, 1, 0))
        maps_of_one_size("MaskedGenerative", student, teacher)
        aligned = run(self.align, student) if isinstance(self.align, nn.Conv2d) else widen(student)
        rows, channels, height, width = aligned.shape
        shape = (rows, 1, height, width) if self.per == "pixel" else (rows, channels, 1, 1)
        if aligned.shape[1] != teacher.shape[1]:
            raise MatchError(unequal("MaskedGenerative", aligned, teacher))
        kept = uniform(shape, seed, sample_id, aligned.device) >= self.masked
        return (run(self.generate, aligned * kept) - widen(teacher.detach())).square().sum() / len(aligned)
