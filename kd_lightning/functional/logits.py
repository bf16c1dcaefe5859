"""How a mask meets logits: rows that count, or entries that take part in the softmax."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from kd_lightning.core.errors import MatchError
from kd_lightning.functional import chunks
from kd_lightning.functional.masking import count
from kd_lightning.functional.shapes import same_shape


def is_positions(logits: Tensor, mask: Tensor | None) -> bool:
    """Return whether the last axis of `logits` is positions, as in start and end logits (B, L).

    Told by a mask of the same shape. Otherwise it is classes, and a mask, if any, covers the axes before it.
    """
    return mask is not None and mask.shape == logits.shape


def entries(logits: Tensor, mask: Tensor | None) -> Tensor | None:
    """Return which entries of the last axis take part in the softmax, None for all."""
    return mask if is_positions(logits, mask) else None


def rows(logits: Tensor, mask: Tensor | None) -> Tensor | None:
    """Return which rows (the axes before the last) count, None for all."""
    return mask.bool().any(-1) if mask is not None and is_positions(logits, mask) else mask


def count_rows(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Return the number of rows that count, as a float scalar."""
    return count(logits, rows(logits, mask), logits.shape[:-1])


def mean_over_logits(
    values: Callable[..., Tensor], logits: Tensor, inputs: Sequence[Any], mask: Tensor | None
) -> Tensor:
    """Return `masked_mean(values(*inputs), mask)`; of large logits a few rows at a time.

    Args:
        values: one value per row, or per entry, of logits (R, C) and what belongs to them.
        logits: which logits this is about.
        inputs: tensors with the axes of `logits`, or with all but the last; anything else is passed on as it is.
        mask: likewise: which values count.

    """
    inputs, size = [mask, *inputs], logits.numel()
    mask, *inputs = _by_row(inputs, logits) if size > chunks.CHUNK else inputs
    return chunks.chunked_mean(values, inputs, mask, size)


def per_row(values: Callable[..., Tensor], logits: Tensor, inputs: Sequence[Any]) -> Tensor:
    """Return `values(*inputs)`, one value per row; of large logits a few rows at a time. See `mean_over_logits`."""
    if logits.numel() <= chunks.CHUNK:
        return values(*inputs)
    return chunks.chunked(values, _by_row(inputs, logits), logits.numel()).reshape(logits.shape[:-1])


def _by_row(inputs: Sequence[Any], logits: Tensor) -> list[Any]:
    """Return the inputs with one axis for all rows."""
    width, rows = logits.shape[-1], logits.shape[:-1]

    def cut(x: Any) -> Any:
        if not chunks.has_items(x):
            return x
        return x.reshape(-1, width) if x.dim() == logits.dim() else x.expand(rows).reshape(-1)

    return [cut(x) for x in inputs]


def check_logits(loss: str, student: Tensor, teacher: Tensor, mask: Tensor | None) -> None:
    """Check that two logits tensors and their mask belong together.

    Raises:
        MatchError: different shapes, or a mask that covers neither the rows nor the entries.

    """
    same_shape(loss, student, teacher, axis=-1, fix="give both models the same number of labels")
    check_logits_mask(loss, student, mask)


def check_logits_mask(loss: str, logits: Tensor, mask: Tensor | None) -> None:
    """Check that a mask covers the rows or the entries of `logits`.

    Raises:
        MatchError: it covers neither.

    """
    if mask is not None and mask.shape not in (logits.shape[:-1], logits.shape):
        raise MatchError(
            f"{loss} got a mask of shape {tuple(mask.shape)} for logits of shape {tuple(logits.shape)}: a mask covers "
            f"the axes before the classes, or, for start and end logits, has their own shape."
        )
