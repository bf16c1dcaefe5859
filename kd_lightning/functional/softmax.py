"""Softmax over what is unmasked, and the divergences between its rows."""

from __future__ import annotations

import torch
from torch import Tensor

LOG_FLOOR = 1e-12
"""Smallest probability whose logarithm is taken where probabilities, not scores, are given."""


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
    return -_unless_zero(p, log_q).sum(-1)


def kl_divergence(p: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return Σ p (log p − log q) over the last axis; where p is 0 the summand is 0, whatever q is.

    Example:
        >>> p = torch.tensor([1.0, 0.0])
        >>> kl_divergence(p, p.log(), torch.tensor([-0.5, float("-inf")]))
        tensor(0.5000)

    """
    return _unless_zero(p, log_p - log_q).sum(-1)


def _unless_zero(p: Tensor, x: Tensor) -> Tensor:
    """Return p·x, and 0 (rather than 0·∞) where p is 0; a p that is not a number stays one, for all to see."""
    return torch.where(p == 0, 0.0, p * x)
