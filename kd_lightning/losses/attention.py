"""Losses on attention maps (B, H, L, L), and on queries, keys and values; a mask (B, L) leaves padded tokens out."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from kd_lightning.core.errors import ConfigError
from kd_lightning.core.types import Kind
from kd_lightning.functional.attention import Divergence, Heads, Inputs, attention_divergence, attention_mse
from kd_lightning.functional.masking import count, token_pairs
from kd_lightning.functional.token_relations import self_relation
from kd_lightning.losses.base import OneFeatureLoss
from kd_lightning.losses.options import check_choice, refuse_removed

_NO_ATTENTION: dict[Kind, str] = {"map": "use HiddenMSE or HiddenCosine, or address attention.k"}
_NO_HEADS: dict[Kind, str] = {"map": "use HiddenMSE or HiddenCosine, or address query.k, key.k or value.k"}


class _PairMean(OneFeatureLoss):
    """Mean over pairs of unmasked tokens of the squared difference of attention maps."""

    widens = True
    refuses = _NO_ATTENTION
    heads: ClassVar[Heads]

    def __init__(self, **removed: Any) -> None:
        refuse_removed(type(self), removed, {"compat": f"kd.compat.textbrewer.{type(self).__name__}"})
        super().__init__()

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare attention (B, H, L, L); mask (B, L)."""
        return attention_mse(student, teacher, mask, self.heads)

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the number of pairs of unmasked tokens."""
        pairs = None if mask is None else token_pairs(mask)
        return count(student, pairs, (student.shape[0], *student.shape[-2:]))


class AttentionMSE(_PairMean):
    """Mean over heads and pairs of unmasked tokens of (A_s − A_t)². TinyBERT, 1909.10351, eq. 7.

    Raises:
        MatchError: if head counts or lengths differ.

    Example:
        >>> import torch
        >>> AttentionMSE()(torch.ones(1, 2, 3, 3), torch.zeros(1, 2, 3, 3))
        tensor(1.)

    """

    heads = "each"


class AttentionMSEMean(_PairMean):
    """Mean over pairs of unmasked tokens of (mean_H A_s − mean_H A_t)²; head counts may differ.

    Raises:
        MatchError: if lengths differ.

    Example:
        >>> import torch
        >>> AttentionMSEMean()(torch.ones(1, 2, 3, 3), torch.zeros(1, 4, 3, 3))
        tensor(1.)

    """

    heads = "mean"


class AttentionMSESum(_PairMean):
    """Mean over pairs of unmasked tokens of (Σ_H A_s − Σ_H A_t)².

    H² times `AttentionMSEMean` where both models have H heads. Where they differ it cannot reach zero on probabilities,
    whose sums over keys are the head counts: use `AttentionMSEMean`.

    Raises:
        MatchError: if lengths differ.

    Example:
        >>> import torch
        >>> AttentionMSESum()(torch.ones(1, 2, 3, 3), torch.zeros(1, 2, 3, 3))
        tensor(4.)

    """

    heads = "sum"


class _RowMean(OneFeatureLoss):
    """Mean over unmasked queries of a divergence between rows of attention."""

    widens = True
    refuses = _NO_ATTENTION
    heads: ClassVar[Heads]
    divergence: ClassVar[Divergence]

    def __init__(self, inputs: Inputs = "probabilities", **removed: Any) -> None:
        refuse_removed(type(self), removed, {"compat": f"kd.compat.textbrewer.{type(self).__name__}"})
        super().__init__()
        check_choice("inputs", inputs, ("probabilities", "scores"))
        self.inputs: Inputs = inputs

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare attention (B, H, L, L); mask (B, L)."""
        return attention_divergence(student, teacher, mask, self.divergence, self.inputs, self.heads)

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the number of unmasked queries."""
        return count(student, mask, (student.shape[0], student.shape[-2]))


class AttentionCE(_RowMean):
    """Mean over heads and unmasked queries of −Σ_j A_t log A_s, over unmasked keys.

    Scores know nothing of a causal or local model's structure: for those compare probabilities.

    Args:
        inputs: "probabilities" (`attention.k`; logarithms have a floor at 1e-12) or "scores" (`scores.k`), which get a
            softmax over unmasked keys first.

    Raises:
        ConfigError: if `inputs` is neither.
        MatchError: if head counts or lengths differ.

    Example:
        >>> import torch
        >>> AttentionCE()(torch.full((1, 1, 2, 2), 0.5), torch.eye(2).expand(1, 1, 2, 2))
        tensor(0.6931)

    """

    heads = "each"
    divergence = "ce"


class AttentionCEMean(_RowMean):
    """`AttentionCE` between the two means over heads; head counts may differ.

    Args:
        inputs: "probabilities", or "scores", which get a softmax over unmasked keys before the mean over heads.

    Raises:
        ConfigError: if `inputs` is neither.
        MatchError: if lengths differ.

    Example:
        >>> import torch
        >>> AttentionCEMean()(torch.full((1, 3, 2, 2), 0.5), torch.eye(2).expand(1, 1, 2, 2))
        tensor(0.6931)

    """

    heads = "mean"
    divergence = "ce"


class AttentionKL(_RowMean):
    """Mean over heads and unmasked queries of KL(A_t ‖ A_s), over unmasked keys. MiniLM, 2002.10957, eq. 5.

    `AttentionCE` less the entropy of the teacher's rows: the same gradient, zero where the two agree.

    Args:
        inputs: "probabilities" (`attention.k`; logarithms have a floor at 1e-12) or "scores" (`scores.k`), which get a
            softmax over unmasked keys first. Scores know nothing of a causal or local model's structure.

    Raises:
        ConfigError: if `inputs` is neither.
        MatchError: if head counts or lengths differ.

    Example:
        >>> import torch
        >>> AttentionKL()(torch.full((1, 1, 2, 2), 0.5), torch.eye(2).expand(1, 1, 2, 2))
        tensor(0.6931)

    """

    heads = "each"
    divergence = "kl"


class SelfRelation(OneFeatureLoss):
    """Mean over relation heads and unmasked rows of KL(R_t ‖ R_s), R = softmax(X Xᵀ / √d). MiniLMv2, 2012.15828.

    X is any of `query.k`, `key.k`, `value.k`, with heads put side by side and split anew, so that head counts may
    differ, also under grouped attention. The paper adds the three with equal weights: three terms.

    Args:
        relation_heads: into how many heads both models' X is split; it must divide both widths H·D. None takes the
            teacher's own count (of the tensor given: fewer for grouped keys and values). The paper splits finer, 48 for
            teachers of width 768 and 64 for 1024, and finds that this helps.

    Raises:
        ConfigError: if `relation_heads` is below 1.
        MatchError: if lengths differ, or a width cannot be split so.

    Example:
        >>> import torch
        >>> x = torch.randn(1, 2, 3, 4)
        >>> SelfRelation(relation_heads=4)(x, x)
        tensor(0.)

    """

    widens = True
    refuses = _NO_HEADS

    def __init__(self, relation_heads: int | None = None) -> None:
        super().__init__()
        if relation_heads is not None and relation_heads < 1:
            raise ConfigError(f"Expected argument `relation_heads` to be at least 1 but got {relation_heads!r}.")
        self.relation_heads = relation_heads

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare queries, keys or values (B, H, L, D); mask (B, L)."""
        return self_relation(student, teacher, mask, self.relation_heads)

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the number of unmasked rows."""
        return count(student, mask, (student.shape[0], student.shape[2]))
