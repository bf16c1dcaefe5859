"""How tokens relate in queries, keys and values (B, H, L, D) of one layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from kd_lightning.core.errors import MatchError
from kd_lightning.functional.attention import mean_over_heads, pairs_for
from kd_lightning.functional.chunks import chunked_mean
from kd_lightning.functional.masking import blank, kl_divergence, masked_log_softmax
from kd_lightning.functional.precision import matmul, widen
from kd_lightning.functional.shapes import one_feature


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
