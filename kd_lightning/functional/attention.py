"""Attention: maps (B, H, L, L) against maps.

Queries are rows, keys are columns, and padding is in neither.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import Tensor

from kd_lightning.core.errors import MatchError
from kd_lightning.functional.chunks import chunked_mean
from kd_lightning.functional.masking import (
    blank,
    cross_entropy,
    floored_log,
    kl_divergence,
    masked_log_softmax,
    token_pairs,
)
from kd_lightning.functional.precision import widen
from kd_lightning.functional.shapes import SAME_TOKENS, one_feature, same_shape

Inputs = Literal["probabilities", "scores"]
Heads = Literal["each", "mean", "sum"]
Divergence = Literal["ce", "kl"]

_OTHER_HEADS = "their head counts differ, use AttentionMSEMean, AttentionCEMean or SelfRelation"


def attention_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None, heads: Heads = "each") -> Tensor:
    """Mean over heads and pairs of unmasked tokens of (A_s − A_t)².

    Args:
        student: probabilities or scores (B, H, L, L); (B, L, L) where heads are already one.
        teacher: the same shape, H may differ unless heads are compared each; detached.
        mask: (B, L).
        heads: compare each head, or their mean or sum.

    Example:
        >>> import torch
        >>> attention_mse(torch.ones(1, 2, 3, 3), torch.zeros(1, 4, 3, 3), heads="sum")
        tensor(4.)

    """
    check_maps("AttentionMSE", student, teacher, mask, heads)
    inputs, pairs = (student, teacher.detach(), mask), None if mask is None else token_pairs(mask)
    return chunked_mean(partial(_squares, heads), inputs, pairs, largest(student, teacher))


def attention_divergence(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    kind: Divergence = "ce",
    inputs: Inputs = "probabilities",
    heads: Heads = "each",
) -> Tensor:
    """Mean over heads and unmasked queries of the cross entropy, or KL(A_t ‖ A_s), of their rows over unmasked keys.

    Args:
        student: (B, H, L, L); (B, L, L) where heads are already one.
        teacher: the same shape, H may differ unless heads are compared each; detached.
        mask: (B, L).
        kind: "ce" for −Σ A_t log A_s, "kl" for Σ A_t (log A_t − log A_s).
        inputs: "probabilities", whose logarithm has a floor at 1e-12, or "scores", which get a softmax over unmasked
            keys first.
        heads: compare each head, or their mean (of probabilities).

    Example:
        >>> import torch
        >>> attention_divergence(torch.full((1, 1, 2, 2), 0.5), torch.eye(2).expand(1, 1, 2, 2))
        tensor(0.6931)

    """
    check_maps("AttentionKL" if kind == "kl" else "AttentionCE", student, teacher, mask, heads)
    values = partial(_divergence, kind, inputs, heads)
    return chunked_mean(values, (student, teacher.detach(), mask), mask, largest(student, teacher))


def reduce_heads(maps: Tensor, heads: Heads) -> Tensor:
    """Return the mean or sum over the heads of (B, H, L, L), as (B, L, L); maps without heads stay.

    Example:
        >>> import torch
        >>> reduce_heads(torch.ones(1, 2, 3, 3), "sum")[0, 0]
        tensor([2., 2., 2.])

    """
    if heads == "each" or maps.dim() == 3:
        return maps
    return maps.mean(1) if heads == "mean" else maps.sum(1)


def mean_over_heads(rows: Tensor) -> Tensor:
    """Return the mean over the heads of one number per row, (B, H, L), as (B, L); rows without heads stay.

    Example:
        >>> import torch
        >>> mean_over_heads(torch.tensor([[[1.0, 5.0], [3.0, 5.0]]]))
        tensor([[2., 5.]])

    """
    return rows.mean(1) if rows.dim() == 3 else rows


def largest(*maps: Tensor) -> int:
    """Return how many entries the largest of some maps has."""
    return max(x.numel() for x in maps)


def blank_pairs(maps: Tensor, mask: Tensor | None) -> Tensor:
    """Return the maps (B, H, L, L) or (B, L, L) with zeros where query or key is masked.

    Example:
        >>> import torch
        >>> blank_pairs(torch.ones(1, 2, 2), torch.tensor([[1, 0]]))[0]
        tensor([[1., 0.],
                [0., 0.]])

    """
    return blank(maps, pairs_for(maps, mask))


def pairs_for(maps: Tensor, mask: Tensor | None) -> Tensor | None:
    """Return which pairs of tokens count, broadcastable to the maps (B, H, L, L) or (B, L, L)."""
    if mask is None:
        return None
    return token_pairs(mask).unsqueeze(1) if maps.dim() == 4 else token_pairs(mask)


def check_maps(loss: str, student: Tensor, teacher: Tensor, mask: Tensor | None, heads: Heads = "each") -> None:
    """Check that two attention maps and their mask belong together.

    Raises:
        MatchError: if head counts differ where heads are compared each, lengths differ, or the mask has another length.

    """
    one_feature(loss, student, teacher)
    if heads != "each":
        student, teacher = (maps[:, 0] if maps.dim() == 4 else maps for maps in (student, teacher))
    same_shape(loss, student, teacher, axis=1, fix=_OTHER_HEADS if student.dim() == 4 else SAME_TOKENS)
    if mask is not None and (student.shape[0], *student.shape[-2:]) != (*mask.shape, mask.shape[-1]):
        raise MatchError(
            f"{loss} got a mask of shape {tuple(mask.shape)} for attention of shape {tuple(student.shape)}: the mask "
            f"must cover the batch, and queries and keys alike."
        )


def _squares(heads: Heads, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """Return one value per pair of tokens."""
    gap = reduce_heads(widen(student), heads) - reduce_heads(widen(teacher), heads)
    return reduce_heads(blank_pairs(gap, mask).square(), "mean")


def _divergence(
    kind: Divergence, inputs: Inputs, heads: Heads, student: Tensor, teacher: Tensor, mask: Tensor | None
) -> Tensor:
    """Return one value per query."""
    p, log_q = _probabilities(teacher, mask, inputs, heads), _log_probabilities(student, mask, inputs, heads)
    if kind == "ce":
        return mean_over_heads(cross_entropy(p, log_q))
    return mean_over_heads(kl_divergence(p, _log_probabilities(teacher, mask, inputs, heads), log_q))


def _probabilities(maps: Tensor, mask: Tensor | None, inputs: Inputs, heads: Heads) -> Tensor:
    """Return attention probabilities over unmasked keys, exactly zero elsewhere in rows that count."""
    if inputs == "scores":
        return reduce_heads(masked_log_softmax(widen(maps), pairs_for(maps, mask)).exp(), heads)
    return reduce_heads(blank_pairs(widen(maps), mask), heads)


def _log_probabilities(maps: Tensor, mask: Tensor | None, inputs: Inputs, heads: Heads) -> Tensor:
    """Return their logarithms; those of single heads' scores need no floor."""
    if inputs == "scores" and heads == "each":
        return masked_log_softmax(widen(maps), pairs_for(maps, mask))
    return floored_log(_probabilities(maps, mask, inputs, heads))
