"""How the tokens of a sequence relate inside one layer, against how they do in the other model's."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from kd_lightning.core.errors import MatchError
from kd_lightning.functional.attention import mean_over_heads, pairs_for
from kd_lightning.functional.chunks import chunked_mean
from kd_lightning.functional.masking import blank
from kd_lightning.functional.precision import matmul, widen
from kd_lightning.functional.softmax import kl_divergence, masked_log_softmax


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
        MatchError: other lengths, or a width H·D that `relation_heads` does not divide.

    Example:
        >>> import torch
        >>> x = torch.randn(1, 2, 3, 4)
        >>> self_relation(x, x, relation_heads=4)
        tensor(0.)

    """
    _check(student, teacher, mask)
    heads = teacher.shape[1] if relation_heads is None else relation_heads
    entries = student.shape[0] * heads * student.shape[2] ** 2
    return chunked_mean(partial(_divergence, heads), (student, teacher.detach(), mask), mask, entries)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Return (B, heads, L, H·D / heads) from (B, H, L, D): all heads side by side, split anew.

    Example:
        >>> import torch
        >>> split_heads(torch.zeros(2, 3, 5, 8), heads=4).shape
        torch.Size([2, 4, 5, 6])

    """
    batch, own, length, width = x.shape
    return x.transpose(1, 2).reshape(batch, length, heads, own * width // heads).transpose(1, 2)


def _divergence(heads: int, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """Return one value per token."""
    log_q, log_p = _log_relation(student, mask, heads, "student"), _log_relation(teacher, mask, heads, "teacher")
    return mean_over_heads(kl_divergence(log_p.exp(), log_p, log_q))


def _log_relation(x: Tensor, mask: Tensor | None, heads: int, side: str) -> Tensor:
    """Return (B, heads, L, L): the log-softmax over unmasked keys of the scaled inner products of tokens."""
    total = x.shape[1] * x.shape[3]
    if total % heads:
        raise MatchError(
            f"SelfRelation cannot split the {side}'s width {total}, from shape {tuple(x.shape)}, into {heads} relation "
            f"heads: choose `relation_heads` to divide both models' widths."
        )
    x = widen(x)
    if mask is not None:
        x = blank(x.transpose(1, 2), mask).transpose(1, 2)
    x = split_heads(x, heads)
    products = matmul(x, x.transpose(-1, -2)) / x.shape[-1] ** 0.5
    return masked_log_softmax(products, pairs_for(products, mask))


def _check(student: Tensor, teacher: Tensor, mask: Tensor | None) -> None:
    """Raise `MatchError` where the two do not have the same batch and tokens, or the mask has others."""
    sizes = [(x.shape[0], x.shape[2]) if x.dim() == 4 else None for x in (student, teacher)]
    if sizes[0] is None or sizes[0] != sizes[1]:
        raise MatchError(
            f"SelfRelation needs tensors (B, H, L, D) of the same batch and tokens but got {tuple(student.shape)} from "
            f"the student and {tuple(teacher.shape)} from the teacher: match query, key or value with the same."
        )
    if mask is not None and tuple(mask.shape) != sizes[0]:
        raise MatchError(
            f"SelfRelation got a mask of shape {tuple(mask.shape)} for a tensor of shape {tuple(student.shape)}: the "
            f"mask must cover the batch and the tokens."
        )
