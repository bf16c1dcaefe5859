"""Losses of torchdistill 1.1.5 where values are not those of ours; the others are ours, and PKT is mdistiller's."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from kd_lightning import losses
from kd_lightning.compat.mdistiller import PKT
from kd_lightning.functional.correlation import dist
from kd_lightning.functional.hidden import LayerPair, flow, flow_pairs
from kd_lightning.functional.masking import masked_mean
from kd_lightning.functional.precision import matmul
from kd_lightning.functional.samples import gaussian, rows_of, similarity_preserving
from kd_lightning.losses.options import check_choice

__all__ = ["DIST", "FSP", "PKT", "CorrelationCongruence", "SimilarityPreserving"]


class SimilarityPreserving(losses.SimilarityPreserving):
    """`losses.SimilarityPreserving` with rows divided by the sum of their absolute values, not their length.

    Another value, smaller by a factor between 1 and about the number of samples.

    Example:
        >>> x = torch.eye(3)
        >>> SimilarityPreserving()(x, 2 * x)
        tensor(0.)

    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare features (B, D_s) and (B, D_t), or maps."""
        return similarity_preserving(student, teacher, p=1.0)


class FSP(losses.FSP):
    """Mean over samples of Σ_j ‖column j of G_s − G_t‖, with no square: another value and scale than `losses.FSP`.

    It pools larger maps by their maximum: `Term(…, resize="max")`.

    Example:
        >>> one = torch.ones(1, 2, 4)
        >>> FSP()((one, one), (one, 0 * one))
        tensor(8.)

    """

    def forward(self, student: LayerPair, teacher: LayerPair, mask: Tensor | None = None) -> Tensor:
        """Compare pairs of hidden states (B, L, D), (B, L, D′), or of maps (B, C, H, W), (B, C′, H, W); mask (B, L)."""
        own, target = flow_pairs(student, teacher)
        gap = flow(own, mask) - flow((target[0].detach(), target[1].detach()), mask)
        samples = None if mask is None else mask.bool().any(-1)
        return masked_mean(torch.linalg.vector_norm(gap, dim=1).sum(1), samples)


class CorrelationCongruence(losses.CorrelationCongruence):
    """‖K_s − K_t‖ / B², with no square, and of features as they are, not unit rows: another value and scale.

    Args:
        kernel: "gaussian", the same series as `losses.CorrelationCongruence`, or "bilinear", inner products.
        gamma: γ.
        order: of the series.
        gather: whether the rows of all devices are one batch.

    Raises:
        ConfigError: if `kernel` is neither, or `gamma` is not positive.

    Example:
        >>> x = torch.eye(2)
        >>> CorrelationCongruence("bilinear")(x, 2 * x).round(decimals=4)
        tensor(1.0607)

    """

    def __init__(
        self,
        kernel: Literal["gaussian", "bilinear"] = "gaussian",
        gamma: float = 0.4,
        order: int = 2,
        gather: bool = True,
    ) -> None:
        super().__init__(gamma, order, gather)
        check_choice("kernel", kernel, ("gaussian", "bilinear"))
        self.kernel = kernel

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare features (B, D_s) and (B, D_t), or maps."""
        own, target = (self._kernel(x) for x in rows_of("CorrelationCongruence", student, teacher))
        return torch.linalg.vector_norm(own - target) / len(own) ** 2

    def _kernel(self, rows: Tensor) -> Tensor:
        return matmul(rows, rows.T) if self.kernel == "bilinear" else gaussian(rows, self.gamma, self.order)


class DIST(losses.DIST):
    """`losses.DIST` with 1e-8 as the least norm in ρ, not added to their product: 1e-7 of the value.

    Example:
        >>> z = torch.tensor([[0.0, 1.0, 3.0], [2.0, 0.0, 1.0]])
        >>> float(DIST()(z, z)) < 1e-4
        True

    """

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare logits (B, C) or (B, L, C); mask (B, L)."""
        found = dist(student, teacher, self.beta, self.gamma, self.temperature, mask, floored=True)
        return self.temperature**2 * found
