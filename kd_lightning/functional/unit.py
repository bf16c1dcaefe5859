"""Vectors of unit length."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def unit(x: Tensor, dim: int = -1, eps: float | None = None) -> Tensor:
    """Return vectors of unit length; a vector of zeros stays one.

    Args:
        x: any shape.
        dim: the axis of the vectors.
        eps: added to each length, as some do; None: lengths are 1e-12 at least.

    Example:
        >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])

    """
    if eps is None:
        return normalize(x, dim=dim)
    return x / (torch.linalg.vector_norm(x, dim=dim, keepdim=True) + eps)
