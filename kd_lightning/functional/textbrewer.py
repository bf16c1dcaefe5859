"""What TextBrewer 0.2.1 computes on attention maps where it differs from us; for `compat="textbrewer"`.

It judges whether an entry is padding by its value (at most −1e-3) where it gets no mask, and applies a softmax to
whatever it is given.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from kd_lightning.functional.attention import Heads, attention_mse, check_maps, largest, mean_over_heads, reduce_heads
from kd_lightning.functional.chunks import chunked_mean
from kd_lightning.functional.masking import blank
from kd_lightning.functional.precision import widen
from kd_lightning.functional.softmax import cross_entropy

PADDING_SCORE = -1e-3
"""Without a mask, entries up to this value are taken for padding."""


def textbrewer_attention_mse(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, heads: Heads = "each"
) -> Tensor:
    """`attention_mse`, except that without a mask entries ≤ −1e-3 become zero in both maps (after the sum over heads).

    Example:
        >>> import torch
        >>> textbrewer_attention_mse(-torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
        tensor(1.)

    """
    if mask is not None:
        return attention_mse(student, teacher, mask, heads)
    check_maps("AttentionMSE", student, teacher, mask, heads)
    return chunked_mean(partial(_squares, heads), (student, teacher.detach()), None, largest(student, teacher))


def textbrewer_attention_ce(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, heads: Heads = "each"
) -> Tensor:
    """Mean over heads and unmasked queries of −Σ_j m_j softmax(teacher)_j log softmax(student)_j.

    Masked keys stay in both denominators. Without a mask, keys where the teacher's entry is ≤ −1e-3 are left out of the
    sum.

    Example:
        >>> import torch
        >>> textbrewer_attention_ce(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))
        tensor(0.6931)

    """
    check_maps("AttentionCE", student, teacher, mask, heads)
    inputs = (student, teacher.detach(), mask)
    return chunked_mean(partial(_cross_entropy, heads), inputs, mask, largest(student, teacher))


def _squares(heads: Heads, student: Tensor, teacher: Tensor) -> Tensor:
    """Return one value per pair of tokens."""
    student, teacher = (reduce_heads(widen(maps), heads) for maps in (student, teacher))
    student, teacher = (maps.masked_fill(maps <= PADDING_SCORE, 0.0) for maps in (student, teacher))
    return reduce_heads((student - teacher).square(), "mean")


def _cross_entropy(heads: Heads, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """Return one value per query."""
    student, teacher = reduce_heads(widen(student), heads), reduce_heads(widen(teacher), heads)
    p = teacher.softmax(-1)
    if mask is None:
        p = p.masked_fill(teacher <= PADDING_SCORE, 0.0)
    else:
        keys = mask.bool().reshape(mask.shape[0], *([1] * (p.dim() - 2)), mask.shape[1])
        p = blank(p, keys)
    return mean_over_heads(cross_entropy(p, student.log_softmax(-1)))
