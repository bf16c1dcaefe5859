"""Neuron selectivity transfer: which patterns the channels of a layer select."""

from __future__ import annotations

from torch import Tensor

from kd_lightning.functional.selectivity import nst_mmd
from kd_lightning.losses.maps.base import MapLoss


class NSTMMD(MapLoss):
    """Mean over samples of mean k(t, t) + mean k(s, s) − 2 mean k(s, t), k(a, b) = ⟨a, b⟩². 1707.01219, eq. 8.

    a and b run over channels as unit vectors over the pixels: the maximum mean discrepancy of two sets of neurons with
    the polynomial kernel of the paper. Numbers of channels may differ: no projection. The usual weight is 10 for one
    stage. What toolkits call NST on tokens is `NST`.

    Raises:
        MatchError: if features are no maps.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 3, 4, 4)
        >>> round(float(NSTMMD()(x, 2 * x)), 6)
        0.0

    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare maps (B, C_s, H, W) and (B, C_t, H, W)."""
        return nst_mmd(student, teacher)
