"""Losses on attention maps (B, H, L, L); a mask (B, L) leaves out padded queries and keys."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from kd_lightning.functional.attention import Divergence, Heads, Inputs, attention_divergence, attention_mse
from kd_lightning.functional.masking import count, token_pairs
from kd_lightning.functional.textbrewer import textbrewer_attention_ce, textbrewer_attention_mse
from kd_lightning.losses.base import Compat, DistillationLoss, check_choice, check_compat


class _PairMean(DistillationLoss):
    """Mean over pairs of unmasked tokens of the squared difference of attention maps."""

    widens = True
    heads: ClassVar[Heads]

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare attention (B, H, L, L); mask (B, L)."""
        return attention_mse(student, teacher, mask, self.heads)

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the number of pairs of unmasked tokens."""
        pairs = None if mask is None else token_pairs(mask)
        return count(student, pairs, (student.shape[0], *student.shape[-2:]))


class _PairMeanOrTextBrewer(_PairMean):
    """The same with the option to do as TextBrewer does."""

    def __init__(self, compat: Compat = None) -> None:
        super().__init__()
        check_compat(compat)
        self.compat: Compat = compat

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare attention (B, H, L, L); mask (B, L)."""
        function = textbrewer_attention_mse if self.compat else attention_mse
        return function(student, teacher, mask, self.heads)


class AttentionMSE(_PairMeanOrTextBrewer):
    """Mean over heads and pairs of unmasked tokens of (A_s − A_t)². TinyBERT, 1909.10351, eq. 7.

    Args:
        compat: "textbrewer" is the same with a mask; without one it takes every entry ≤ −1e-3 for padding and sets
            it to zero, which is wrong for raw scores.

    Raises:
        ConfigError: an unknown `compat`.
        MatchError: head counts or lengths that differ.

    Example:
        >>> import torch
        >>> AttentionMSE()(torch.ones(1, 2, 3, 3), torch.zeros(1, 2, 3, 3))
        tensor(1.)

    """

    heads = "each"


class AttentionMSEMean(_PairMean):
    """Mean over pairs of unmasked tokens of (mean_H A_s − mean_H A_t)²; head counts may differ.

    Raises:
        MatchError: lengths that differ.

    Example:
        >>> import torch
        >>> AttentionMSEMean()(torch.ones(1, 2, 3, 3), torch.zeros(1, 4, 3, 3))
        tensor(1.)

    """

    heads = "mean"


class AttentionMSESum(_PairMeanOrTextBrewer):
    """Mean over pairs of unmasked tokens of (Σ_H A_s − Σ_H A_t)².

    H² times `AttentionMSEMean` where both models have H heads. Where they differ it cannot reach zero on probabilities,
    whose sums over keys are the head counts: use `AttentionMSEMean`.

    Args:
        compat: "textbrewer" gives its `attention_mse_sum`, the same with a mask; without one it sets every sum
            ≤ −1e-3 to zero.

    Raises:
        ConfigError: an unknown `compat`.
        MatchError: lengths that differ.

    Example:
        >>> import torch
        >>> AttentionMSESum()(torch.ones(1, 2, 3, 3), torch.zeros(1, 2, 3, 3))
        tensor(4.)

    """

    heads = "sum"


class _RowMean(DistillationLoss):
    """Mean over unmasked queries of a divergence between rows of attention."""

    widens = True
    heads: ClassVar[Heads]
    kind: ClassVar[Divergence]

    def __init__(self, inputs: Inputs = "probabilities") -> None:
        super().__init__()
        check_choice("inputs", inputs, ("probabilities", "scores"))
        self.inputs: Inputs = inputs

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare attention (B, H, L, L); mask (B, L)."""
        return attention_divergence(student, teacher, mask, self.kind, self.inputs, self.heads)

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the number of unmasked queries."""
        return count(student, mask, (student.shape[0], student.shape[-2]))


class _RowMeanOrTextBrewer(_RowMean):
    """The same with the option to do as TextBrewer does."""

    def __init__(self, inputs: Inputs = "probabilities", compat: Compat = None) -> None:
        super().__init__(inputs)
        check_compat(compat)
        self.compat: Compat = compat

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare attention (B, H, L, L); mask (B, L)."""
        if self.compat:
            return textbrewer_attention_ce(student, teacher, mask, self.heads)
        return super().forward(student, teacher, mask)


class AttentionCE(_RowMeanOrTextBrewer):
    """Mean over heads and unmasked queries of −Σ_j A_t log A_s, over unmasked keys.

    Scores know nothing of a causal or local model's structure: for those compare probabilities.

    Args:
        inputs: "probabilities" (`attention.k`; logarithms have a floor at 1e-12) or "scores" (`scores.k`), which get a
            softmax over unmasked keys first.
        compat: "textbrewer" gives its `attention_ce`: a softmax over whatever it is given, with padded keys left in the
            denominators; without a mask, keys where the teacher's entry is ≤ −1e-3 are left out of the sum. On scores
            without padding it is our `inputs="scores"`, if no entry of the teacher is that small; else no fixed ratio.

    Raises:
        ConfigError: unknown options.
        MatchError: head counts or lengths that differ.

    Example:
        >>> import torch
        >>> AttentionCE()(torch.full((1, 1, 2, 2), 0.5), torch.eye(2).expand(1, 1, 2, 2))
        tensor(0.6931)

    """

    heads = "each"
    kind = "ce"


class AttentionCEMean(_RowMeanOrTextBrewer):
    """`AttentionCE` between the two means over heads; head counts may differ.

    Args:
        inputs: "probabilities", or "scores", which get a softmax over unmasked keys before the mean over heads.
        compat: "textbrewer" gives its `attention_ce_mean`: the mean over heads first, then as in `AttentionCE`.

    Raises:
        ConfigError: unknown options.
        MatchError: lengths that differ.

    Example:
        >>> import torch
        >>> AttentionCEMean()(torch.full((1, 3, 2, 2), 0.5), torch.eye(2).expand(1, 1, 2, 2))
        tensor(0.6931)

    """

    heads = "mean"
    kind = "ce"


class AttentionKL(_RowMean):
    """Mean over heads and unmasked queries of KL(A_t ‖ A_s), over unmasked keys. MiniLM, 2002.10957, eq. 5.

    `AttentionCE` less the entropy of the teacher's rows: the same gradient, zero where the two agree.

    Args:
        inputs: "probabilities" (`attention.k`; logarithms have a floor at 1e-12) or "scores" (`scores.k`), which get a
            softmax over unmasked keys first. Scores know nothing of a causal or local model's structure.

    Raises:
        ConfigError: unknown `inputs`.
        MatchError: head counts or lengths that differ.

    Example:
        >>> import torch
        >>> AttentionKL()(torch.full((1, 1, 2, 2), 0.5), torch.eye(2).expand(1, 1, 2, 2))
        tensor(0.6931)

    """

    heads = "each"
    kind = "kl"
