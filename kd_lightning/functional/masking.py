"""The one mask rule: padding has no value and no gradient, and an empty mask gives a differentiable zero.

A mask is bool or 0/1, 1 = real, and covers the leading axes of what it masks: (B, L) for a (B, L, D) tensor. Means,
softmaxes and divergences of rows, all under a mask.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LOG_FLOOR = 1e-12
"""Smallest probability whose logarithm is taken where probabilities, not scores, are given."""


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
    if mask is None:
        return x
    keep = mask.bool().reshape(mask.shape + (1,) * (x.dim() - mask.dim()))
    return x.masked_fill(~keep, value)


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


def masked_log_softmax(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return the log-softmax of `x` over its last axis, with masked entries left out.

    Args:
        x: (..., N), at least float32.
        mask: broadcastable to `x`, bool or 0/1, or None.

    Returns:
        (..., N). The probability of a masked entry is exactly zero and its logarithm a huge negative finite number; a
        row without any unmasked entry is uniform, and for the caller to leave out. Masked entries get no gradient.

    Example:
        >>> masked_log_softmax(torch.tensor([1.0, 1.0, float("nan")]), torch.tensor([1, 1, 0])).exp()
        tensor([0.5000, 0.5000, 0.0000])

    """
    if mask is not None:
        x = x.masked_fill(~mask.bool(), torch.finfo(x.dtype).min)
    return x.log_softmax(-1)


def floored_log(p: Tensor) -> Tensor:
    """Return log max(p, 1e-12).

    Example:
        >>> floored_log(torch.tensor([1.0, 0.0]))
        tensor([  0.0000, -27.6310])

    """
    return p.clamp(min=LOG_FLOOR).log()


def cross_entropy(p: Tensor, log_q: Tensor) -> Tensor:
    """Return −Σ p log q over the last axis; where p is 0 the summand is 0, whatever q is.

    Example:
        >>> cross_entropy(torch.tensor([1.0, 0.0]), torch.tensor([-0.5, float("-inf")]))
        tensor(0.5000)

    """
    return -times(p, log_q).sum(-1)


def kl_divergence(p: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return Σ p (log p − log q) over the last axis; where p is 0 the summand is 0, whatever q is.

    Example:
        >>> p = torch.tensor([1.0, 0.0])
        >>> kl_divergence(p, p.log(), torch.tensor([-0.5, float("-inf")]))
        tensor(0.5000)

    """
    return times(p, log_p - log_q).sum(-1)


def times(p: Tensor, x: Tensor) -> Tensor:
    """Return p·x, and 0 (rather than 0·∞) where p is 0; a p that is not a number stays one, for all to see.

    Example:
        >>> times(torch.tensor([0.0, 0.5]), torch.tensor([float("-inf"), 4.0]))
        tensor([0., 2.])

    """
    return torch.where(p == 0, 0.0, p * x)
