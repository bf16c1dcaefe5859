"""Optimal transport between many pairs of distributions at once, smoothed so that it has a gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinkhorn(log_p: Tensor, log_q: Tensor, cost: Tensor, regulariser: float = 0.05, iterations: int = 10) -> Tensor:
    """Return the flow from p to q of Sinkhorn's algorithm, in logarithms throughout. Cuturi 2013 (1306.0895).

    Rows of the flow sum to p after the last half step, columns to q as nearly as the iterations reach. The gradient
    runs through all iterations.

    Args:
        log_p: (B, N), logarithms of distributions.
        log_q: (B, M).
        cost: (B, N, M), not negative.
        regulariser: what the cost is divided by: the smaller, the nearer to the cheapest flow, and the slower.
        iterations: how often both sides are fitted.

    Returns:
        (B, N, M).

    Example:
        >>> import torch
        >>> half = torch.full((1, 2), 0.5).log()
        >>> sinkhorn(half, half, 1 - torch.eye(2)[None]).round(decimals=3)
        tensor([[[0.5000, 0.0000],
                 [0.0000, 0.5000]]])

    """
    kernel = -cost / regulariser
    log_u = torch.full_like(log_p, -math.log(log_p.shape[-1]))
    log_v = log_q
    for _ in range(iterations):
        log_v = log_q - (kernel + log_u.unsqueeze(-1)).logsumexp(-2)
        log_u = log_p - (kernel + log_v.unsqueeze(-2)).logsumexp(-1)
    return (log_u.unsqueeze(-1) + kernel + log_v.unsqueeze(-2)).exp()
