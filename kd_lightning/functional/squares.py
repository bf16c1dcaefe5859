"""Squared differences of large features, with few passes over memory: on a CPU that is what they cost."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from kd_lightning.functional.precision import widen


def squared_distance(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return Σ_d (s − t)² over the last axis, in at least float32; zero, without gradient, where masked.

    One tensor of the features' size is made on the way, and one for the gradient; the teacher's is read in its own
    precision. The gradient has no gradient.

    Args:
        student: (…, D).
        teacher: the same shape; gets no gradient.
        mask: the leading axes, or None.

    Example:
        >>> squared_distance(torch.tensor([[1.0, 2.0], [3.0, 3.0]]), torch.zeros(2, 2), torch.tensor([1, 0]))
        tensor([5., 0.])

    """
    return _SquaredDistance.apply(student, teacher.detach(), mask)


class _SquaredDistance(Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        gap = widen(student) - teacher
        if mask is not None:
            gap.masked_fill_(~mask.bool().reshape(mask.shape + (1,) * (gap.dim() - mask.dim())), 0.0)
        ctx.save_for_backward(gap)
        ctx.dtype = student.dtype
        return torch.linalg.vector_norm(gap, dim=-1).square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (gap,) = ctx.saved_tensors
        return (gap * (2 * grad).unsqueeze(-1)).to(ctx.dtype), None, None
