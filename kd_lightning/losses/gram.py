"""Losses on how two layers of a model relate; a match names a pair of addresses on each side."""

from __future__ import annotations

from torch import Tensor

from kd_lightning.functional.gram import LayerPair, fsp, nst
from kd_lightning.functional.masking import count, token_pairs
from kd_lightning.losses.base import Compat, DistillationLoss, check_compat


class FSP(DistillationLoss):
    """Mean over samples and D×D′ of (G_s − G_t)², G = Σ_l a_l b_lᵀ / len. CVPR 2017 (Yim et al.), eq. 1 and 2.

    The same as TextBrewer's `fsp` and `gram`.

    Raises:
        MatchError: not a pair of layers, or shapes that do not belong together.

    Example:
        >>> import torch
        >>> one = torch.ones(1, 2, 3)
        >>> FSP()((one, one), (one, 0 * one))
        tensor(1.)

    """

    equal_widths = True
    widens = True

    def forward(self, student: LayerPair, teacher: LayerPair, mask: Tensor | None = None) -> Tensor:
        """Compare pairs of hidden states (B, L, D), (B, L, D′); mask (B, L)."""
        return fsp(student, teacher, mask)

    def count(self, student: LayerPair, teacher: LayerPair, mask: Tensor | None = None) -> Tensor:
        """Return the number of samples that have an unmasked token."""
        return count(student[0], None if mask is None else mask.bool().any(-1), student[0].shape[:1])


class NST(DistillationLoss):
    """Mean over pairs of unmasked tokens of (a_s b_sᵀ/D_s − a_t b_tᵀ/D_t)²; the two models' widths may differ.

    What toolkits call NST or MMD, a Gram matrix of tokens; not the MMD of the NST paper (1707.01219).

    Args:
        compat: "textbrewer" gives its `nst` (`mmd`). Without a mask it is the same. With one it divides by the padded
            length L instead of the widths, so that the value changes with the padding: D²/L² of ours where
            D_s = D_t = D.

    Raises:
        ConfigError: an unknown `compat`.
        MatchError: not a pair of layers, or shapes that do not belong together.

    Example:
        >>> import torch
        >>> one, wide = torch.ones(1, 2, 3), torch.ones(1, 2, 5)
        >>> NST()((one, one), (wide, wide))
        tensor(0.)

    """

    widens = True

    def __init__(self, compat: Compat = None) -> None:
        super().__init__()
        check_compat(compat)
        self.compat: Compat = compat

    def forward(self, student: LayerPair, teacher: LayerPair, mask: Tensor | None = None) -> Tensor:
        """Compare pairs of hidden states (B, L, D_s) with pairs (B, L, D_t); mask (B, L)."""
        by_length = self.compat is not None and mask is not None
        return nst(student, teacher, mask, divide_by="length" if by_length else "width")

    def count(self, student: LayerPair, teacher: LayerPair, mask: Tensor | None = None) -> Tensor:
        """Return the number of pairs of unmasked tokens."""
        batch, length, _ = student[0].shape
        return count(student[0], None if mask is None else token_pairs(mask), (batch, length, length))
