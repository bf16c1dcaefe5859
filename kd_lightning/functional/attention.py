"""Attention: maps (B, H, L, L) against maps, and how tokens relate in queries, keys and values (B, H, L, D).

Queries are rows, keys are columns, and padding is in neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
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
from kd_lightning.functional.precision import matmul, widen
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


def self_relation(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, relation_heads: int | None = None
) -> Tensor:
    """Mean over relation heads and unmasked rows of KL(R_t ‖ R_s), R = softmax(X Xᵀ / √d) over unmasked keys.

    The heads of X are put side by side and split again into `relation_heads` heads of width d.
    MiniLMv2, Wang et al. 2021 (2012.15828), eq. 3 to 5.

    Args:
        student: queries, keys or values (B, H, L, D); H and D of the two models may differ.
        teacher: the same of the teacher; detached.
        mask: (B, L).
        relation_heads: None for the teacher's head count.

    Raises:
        MatchError: if batch or lengths differ, or `relation_heads` does not divide a width H·D.

    Example:
        >>> import torch
        >>> x = torch.randn(1, 2, 3, 4)
        >>> self_relation(x, x, relation_heads=4)
        tensor(0.)

    """
    one_feature("SelfRelation", student, teacher)
    _check_heads("SelfRelation", student, teacher, mask)
    heads = teacher.shape[1] if relation_heads is None else relation_heads
    return _relation(student, None, teacher.detach(), None, mask, heads)


def cross_relations(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    mask: Tensor | None = None,
    relation_heads: int | None = None,
) -> Tensor:
    """Mean of KL(R_t ‖ R_s) over all ordered pairs of some tensors, R = softmax(X Yᵀ / √d) over unmasked keys.

    With queries, keys and values nine relations: MiniViT, Zhang et al. 2022 (2204.07154), eq. 8 and 9.

    Args:
        student: queries, keys and values, each (B, H, L, D).
        teacher: the same of the teacher; detached; its H and D may differ.
        mask: (B, L).
        relation_heads: into how many heads they are split anew; None for the teacher's head count.

    Raises:
        MatchError: if the sides have unequal numbers of tensors, or as of `self_relation`.

    Example:
        >>> import torch
        >>> x = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4)
        >>> cross_relations(x, x)
        tensor(0.)

    """
    if isinstance(student, Tensor) or isinstance(teacher, Tensor) or len(student) != len(teacher):
        raise MatchError("CrossRelations relates several tensors of each model: queries, keys and values of a layer.")
    for s, t in zip(student, teacher, strict=True):
        _check_heads("CrossRelations", s, t, mask)
    heads = teacher[0].shape[1] if relation_heads is None else relation_heads
    own, target = [widen(x) for x in student], [x.detach() for x in teacher]  # nine gradients are added in float32
    pairs = [(i, j) for i in range(len(student)) for j in range(len(student))]
    return torch.stack([_relation(own[i], own[j], target[i], target[j], mask, heads) for i, j in pairs]).mean()


def _check_heads(loss: str, student: Tensor, teacher: Tensor, mask: Tensor | None) -> None:
    sizes = [(x.shape[0], x.shape[2]) if x.dim() == 4 else None for x in (student, teacher)]
    if sizes[0] is None or sizes[0] != sizes[1]:
        raise MatchError(
            f"{loss} needs tensors (B, H, L, D) of the same batch and tokens but got {tuple(student.shape)} from the "
            f"student and {tuple(teacher.shape)} from the teacher: match query, key or value with the same."
        )
    if mask is not None and tuple(mask.shape) != sizes[0]:
        raise MatchError(
            f"{loss} got a mask of shape {tuple(mask.shape)} for a tensor of shape {tuple(student.shape)}: the mask "
            "must cover the batch and the tokens."
        )


def _relation(
    own: Tensor, keys: Tensor | None, target: Tensor, target_keys: Tensor | None, mask: Tensor | None, heads: int
) -> Tensor:
    """Return the mean over heads and tokens of the divergence of the relations of `own` with `keys`, or with itself."""
    entries = own.shape[0] * heads * own.shape[2] ** 2
    return chunked_mean(partial(_relation_divergence, heads), (own, keys, target, target_keys, mask), mask, entries)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Return (B, heads, L, H·D / heads) from (B, H, L, D): all heads side by side, split anew.

    Example:
        >>> import torch
        >>> split_heads(torch.zeros(2, 3, 5, 8), heads=4).shape
        torch.Size([2, 4, 5, 6])

    """
    batch, own, length, width = x.shape
    return x.transpose(1, 2).reshape(batch, length, heads, own * width // heads).transpose(1, 2)


def _relation_divergence(
    heads: int, own: Tensor, keys: Tensor | None, target: Tensor, target_keys: Tensor | None, mask: Tensor | None
) -> Tensor:
    """Return one value per token."""
    log_q = _log_relation(own, keys, mask, heads, "student")
    log_p = _log_relation(target, target_keys, mask, heads, "teacher")
    return mean_over_heads(kl_divergence(log_p.exp(), log_p, log_q))


def _log_relation(x: Tensor, keys: Tensor | None, mask: Tensor | None, heads: int, side: str) -> Tensor:
    """Return (B, heads, L, L): the log-softmax over unmasked keys of the scaled inner products of tokens."""
    total = x.shape[1] * x.shape[3]
    if total % heads:
        raise MatchError(
            f"A relation cannot split the {side}'s width {total}, from shape {tuple(x.shape)}, into {heads} relation "
            f"heads: choose `relation_heads` to divide both models' widths."
        )
    rows = _in_heads(x, mask, heads)
    columns = rows if keys is None else _in_heads(keys, mask, heads)
    products = matmul(rows, columns.transpose(-1, -2)) / rows.shape[-1] ** 0.5
    return masked_log_softmax(products, pairs_for(products, mask))


def _in_heads(x: Tensor, mask: Tensor | None, heads: int) -> Tensor:
    x = widen(x)
    if mask is not None:
        x = blank(x.transpose(1, 2), mask).transpose(1, 2)
    return split_heads(x, heads)
