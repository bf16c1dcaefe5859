"""The one mask rule: padding has no value and no gradient, and an empty mask gives a differentiable zero.

A mask is bool or 0/1, 1 = real, and covers the leading axes of what it masks: (B, L) for a (B, L, D) tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def _aligned(mask: Tensor, dim: int) -> Tensor:
    """Return a boolean mask with trailing axes of size one, up to `dim` axes."""
    return mask.bool().reshape(mask.shape + (1,) * (dim - mask.dim()))


def blank(x: Tensor, mask: Tensor | None, value: float = 0.0) -> Tensor:
    """Return `x` with everything masked replaced by `value`, so that garbage there reaches no arithmetic.

    Args:
        x: any shape.
        mask: the leading axes of `x` (or all of them, or broadcastable to them), or None to keep everything.
        value: what masked entries become; their gradient is zero.

    Example:
        >>> blank(torch.tensor([[1.0, 2.0], [float("nan"), 3.0]]), torch.tensor([1, 0]))
        tensor([[1., 2.],
                [0., 0.]])

    """
    return x if mask is None else x.masked_fill(~_aligned(mask, x.dim()), value)


def masked_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of `values` where `mask` is true, over all axes.

    Args:
        values: any shape.
        mask: the leading axes of `values` (or all of them), or None for all values.

    Returns:
        A scalar; zero, still attached to the graph, where nothing is unmasked.

    Example:
        >>> masked_mean(torch.tensor([1.0, 3.0, float("nan")]), torch.tensor([1, 1, 0]))
        tensor(2.)

    """
    if mask is None:
        return values.sum() / max(values.numel(), 1)
    each = values.shape[mask.dim() :].numel()
    return blank(values, mask).sum() / (mask.bool().sum() * each).clamp(min=1)


def token_pairs(mask: Tensor) -> Tensor:
    """Return (B, L, L), true where both tokens of a pair are real, from a (B, L) mask.

    Example:
        >>> token_pairs(torch.tensor([[1, 0]])).int()
        tensor([[[1, 0],
                 [0, 0]]], dtype=torch.int32)

    """
    keep = mask.bool()
    return keep.unsqueeze(-1) & keep.unsqueeze(-2)


def count(x: Tensor, mask: Tensor | None, sizes: Sequence[int]) -> Tensor:
    """Return how many things a mean runs over: the number of unmasked, or without a mask the product of `sizes`.

    Returns:
        A float scalar, on the device of `x`.

    Example:
        >>> x = torch.zeros(2, 2, 8)
        >>> count(x, None, sizes=x.shape[:2]), count(x, torch.tensor([[1, 1], [1, 0]]), sizes=x.shape[:2])
        (tensor(4.), tensor(3.))

    """
    if mask is None:
        return torch.full((), float(math.prod(sizes)), dtype=torch.float32, device=x.device)
    return mask.bool().sum().float()
