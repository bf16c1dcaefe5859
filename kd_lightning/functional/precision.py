"""At least float32, whatever the models run in."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """Return `x` in at least float32; float64 stays float64.

    Example:
        >>> widen(torch.zeros(1, dtype=torch.bfloat16)).dtype, widen(torch.zeros(1, dtype=torch.float64)).dtype
        (torch.float32, torch.float64)

    """
    return x.to(widened(x))


def widened(x: Tensor) -> torch.dtype:
    """Return the precision that `widen` gives."""
    return torch.promote_types(x.dtype, torch.float32)


EXACT_ABOVE = 32.0
"""The temperature above which softened distributions are compared in float64: a float32 divergence, which is the small
difference of large numbers, has lost three of its digits there, and is noise at 1000."""


def widen_for(temperature: float, x: Tensor) -> Tensor:
    """Return `x` in the precision that a temperature needs: `widen(x)`, or float64 where a device has it.

    Example:
        >>> x = torch.zeros(1, dtype=torch.bfloat16)
        >>> widen_for(8.0, x).dtype, widen_for(1000.0, x).dtype
        (torch.float32, torch.float64)

    """
    return x.double() if temperature > EXACT_ABOVE and x.device.type != "mps" else widen(x)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Return `a @ b` in their own precision, also inside an autocast region, which would narrow the product.

    Example:
        >>> with torch.autocast("cpu", dtype=torch.bfloat16):
        ...     matmul(torch.ones(2, 2), torch.ones(2, 2)).dtype
        torch.float32

    """
    with no_autocast(a):
        return a @ b


def self_products(x: Tensor) -> Tensor:
    """Return `x @ x.mT` in its own precision, with one product in the backward pass where autograd would take two.

    Args:
        x: (…, N, D).

    Example:
        >>> self_products(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
        tensor([[5., 2.],
                [2., 1.]])

    """
    return _SelfProducts.apply(x)


class _SelfProducts(torch.autograd.Function):
    """d⟨G, x xᵀ⟩ = ⟨(G + Gᵀ) x, dx⟩."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return matmul(x, x.mT)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return matmul(gradient + gradient.mT, x)


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which no autocast region changes the precision of what is computed on the device of `x`.

    Example:
        >>> with torch.autocast("cpu"), no_autocast(torch.zeros(1)):
        ...     torch.is_autocast_enabled("cpu")
        False

    """
    return torch.autocast(x.device.type, enabled=False)
