"""Losses on hidden states and feature maps, and on how two layers relate; masked tokens count for nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from kd_lightning.core.errors import MatchError
from kd_lightning.core.types import FeatureInfo, Kind
from kd_lightning.functional.hidden import LayerPair, fsp, hidden_cosine, hidden_mse, nst, pkd, token_mask
from kd_lightning.functional.maps import as_tokens
from kd_lightning.functional.masking import count, token_pairs
from kd_lightning.functional.shapes import PAIR
from kd_lightning.losses.base import DistillationLoss, OneFeatureLoss
from kd_lightning.losses.options import refuse_removed

_HEADS: dict[Kind, str] = {
    "attention": "use AttentionMSE or AttentionKL",
    "heads": "use SelfRelation",
}


class HiddenMSE(OneFeatureLoss):
    """Mean over unmasked tokens and the width of (h_s − h_t)². The same as TextBrewer's `hidden_mse`.

    Of feature maps, the mean over everything: the loss of FitNets (1412.6550), with `projection="conv"` its regressor.

    Raises:
        MatchError: if shapes differ, or the mask does not cover batch and tokens.

    Example:
        >>> import torch
        >>> HiddenMSE()(torch.ones(1, 2, 4), torch.zeros(1, 2, 4), torch.tensor([[1, 0]]))
        tensor(1.)

    """

    equal_widths = True
    widens = True

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare hidden states (B, L, D), vectors (B, D), or maps (B, C, H, W); mask (B, L)."""
        return hidden_mse(student, teacher, mask)

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the number of unmasked tokens, or pixels."""
        return count(student, token_mask(student, mask), as_tokens(student).shape[:-1])


class HiddenCosine(OneFeatureLoss):
    """Mean over unmasked tokens of 1 − cos(h_s, h_t). DistilBERT, 1910.01108; the same as TextBrewer's `cos`.

    The tokens of a feature map are its pixels.

    Raises:
        MatchError: if shapes differ, or the mask does not cover batch and tokens.

    Example:
        >>> import torch
        >>> HiddenCosine()(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
        tensor(1.)

    """

    equal_widths = True
    widens = True
    refuses = _HEADS

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare hidden states (B, L, D), vectors (B, D), or maps (B, C, H, W); mask (B, L)."""
        return hidden_cosine(student, teacher, mask)

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the number of unmasked tokens, or pixels."""
        return count(student, token_mask(student, mask), as_tokens(student).shape[:-1])


class PKD(OneFeatureLoss):
    """Mean over samples of ‖h_s/‖h_s‖ − h_t/‖h_t‖‖² at the first unmasked token. 1908.09355, eq. 7 for one layer.

    The paper's own code divides by the width too: its value is ours / D.

    Raises:
        MatchError: if shapes differ, or the mask does not cover batch and tokens.

    Example:
        >>> import torch
        >>> PKD()(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
        tensor(2.)

    """

    equal_widths = True
    widens = True
    refuses: ClassVar[Mapping[Kind, str]] = _HEADS | {"map": "use HiddenCosine, or PKD on pooled features"}

    def __init__(self, **removed: Any) -> None:
        refuse_removed(type(self), removed, {"compat": "kd.compat.textbrewer.PKD"})
        super().__init__()

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare hidden states (B, L, D), or vectors (B, D) of a token already chosen; mask (B, L)."""
        return pkd(student, teacher, mask)

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the number of samples that have an unmasked token."""
        mask = token_mask(student, mask)
        return count(student, None if mask is None else mask.bool().any(-1), student.shape[:1])


class _PairLoss(DistillationLoss):
    """Base of losses on how two layers of one model relate."""

    widens = True

    def bind(self, student: tuple[FeatureInfo, ...], teacher: tuple[FeatureInfo, ...]) -> None:
        """Check before the first step that each side has two features."""
        for side, infos in (("student", student), ("teacher", teacher)):
            if len(infos) != 2:
                got = "one feature" if len(infos) == 1 else f"{len(infos)} features"
                raise MatchError(PAIR.format(loss=type(self).__name__, side=side, got=got))


class FSP(_PairLoss):
    """Mean over samples and D×D′ of (G_s − G_t)², G = Σ_l a_l b_lᵀ / len. CVPR 2017 (Yim et al.), eq. 1 and 2.

    Of feature maps, over pixels as in the paper: then len is H·W. The same as TextBrewer's `fsp` and `gram`.

    Raises:
        MatchError: if a side is not a pair of layers, or shapes differ where they may not.

    Example:
        >>> import torch
        >>> one = torch.ones(1, 2, 3)
        >>> FSP()((one, one), (one, 0 * one))
        tensor(1.)

    """

    equal_widths = True
    widens = True

    def forward(self, student: LayerPair, teacher: LayerPair, mask: Tensor | None = None) -> Tensor:
        """Compare pairs of hidden states (B, L, D), (B, L, D′), or of maps (B, C, H, W), (B, C′, H, W); mask (B, L)."""
        return fsp(student, teacher, mask)

    def count(self, student: LayerPair, teacher: LayerPair, mask: Tensor | None = None) -> Tensor:
        """Return the number of samples that have an unmasked token."""
        return count(student[0], None if mask is None else mask.bool().any(-1), student[0].shape[:1])


class NST(_PairLoss):
    """Mean over pairs of unmasked tokens of (a_s b_sᵀ/D_s − a_t b_tᵀ/D_t)²; the two models' widths may differ.

    What toolkits call NST or MMD, a Gram matrix of tokens, or of the pixels of feature maps; not the MMD of the NST
    paper (1707.01219), which compares channels.

    Raises:
        MatchError: if a side is not a pair of layers, or shapes differ where they may not.

    Example:
        >>> import torch
        >>> one, wide = torch.ones(1, 2, 3), torch.ones(1, 2, 5)
        >>> NST()((one, one), (wide, wide))
        tensor(0.)

    """

    widens = True

    def __init__(self, **removed: Any) -> None:
        refuse_removed(type(self), removed, {"compat": "kd.compat.textbrewer.NST"})
        super().__init__()

    def forward(self, student: LayerPair, teacher: LayerPair, mask: Tensor | None = None) -> Tensor:
        """Compare pairs of hidden states (B, L, D_s) with pairs (B, L, D_t), or pairs of maps; mask (B, L)."""
        return nst(student, teacher, mask)

    def count(self, student: LayerPair, teacher: LayerPair, mask: Tensor | None = None) -> Tensor:
        """Return the number of pairs of unmasked tokens, or of pixels."""
        batch, length, _ = as_tokens(student[0]).shape
        return count(student[0], None if mask is None else token_pairs(mask), (batch, length, length))
