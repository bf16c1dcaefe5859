"""Means of very many values, computed chunk by chunk and once more in the backward pass, so that few are kept.

Attention maps, Gram matrices of tokens and logits over a vocabulary have millions of entries per batch, and a
divergence keeps several float32 tensors of that size for its gradient. Cut along the first axis, only one chunk's
tensors live at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kd_lightning.functional.masking import blank, masked_mean

CHUNK = 2**24
"""Entries of the largest tensor of a chunk: 64 MiB in float32. What has no more than that is not cut."""

Values: TypeAlias = Callable[..., Tensor]


def chunked_mean(values: Values, inputs: Sequence[Any], mask: Tensor | None, entries: int) -> Tensor:
    """Return `masked_mean(values(*inputs), mask)`, where `values` treats the items of the first axis one by one.

    Args:
        values: what is averaged, from chunks of the inputs; the chunk's items are its first axis.
        inputs: tensors with the same first axis, which is cut; anything else is passed on as it is.
        mask: the leading axes of the values, or None.
        entries: how many entries the largest tensor has on the way.

    Example:
        >>> chunked_mean(torch.square, [torch.tensor([1.0, 3.0])], None, entries=2)
        tensor(5.)

    """
    if entries <= CHUNK:
        return masked_mean(values(*inputs), mask)
    done = [_recomputed(partial(_sum, values), *part) for part in _cut([mask, *inputs], entries)]
    total, size = torch.stack([part for part, _ in done]).sum(), sum(size for _, size in done)
    if mask is None:
        return total / max(size, 1)
    return total / (mask.bool().sum() * (size // mask.numel())).clamp(min=1)


def chunked(values: Values, inputs: Sequence[Any], entries: int) -> Tensor:
    """Return `values(*inputs)`, small itself but large on the way. Arguments are those of `chunked_mean`.

    Example:
        >>> chunked(torch.square, [torch.tensor([1.0, 3.0])], entries=2)
        tensor([1., 9.])

    """
    if entries <= CHUNK:
        return values(*inputs)
    return torch.cat([_recomputed(values, *part) for part in _cut(inputs, entries)])


def has_items(x: Any) -> bool:
    """Return whether something is a tensor with a first axis."""
    return isinstance(x, Tensor) and x.dim() > 0


def _sum(values: Values, mask: Tensor | None, *inputs: Any) -> tuple[Tensor, int]:
    """Return the sum of the values that count, and how many there are with and without."""
    found = values(*inputs)
    return blank(found, mask).sum(), found.numel()


def _cut(inputs: Sequence[Any], entries: int) -> Iterator[tuple[Any, ...]]:
    """Yield chunks of items of the first axis; `split` joins their gradients once, where slices would add them up."""
    items = next(len(x) for x in inputs if has_items(x))
    step = max(1, items * CHUNK // entries)
    number = -(-items // step)
    return zip(*(x.split(step) if has_items(x) else [x] * number for x in inputs), strict=True)


def _recomputed(function: Callable[..., Any], *inputs: Any) -> Any:
    """Call a function and keep nothing but its inputs for the backward pass."""
    if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
        return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)  # no randomness in losses
    return function(*inputs)
