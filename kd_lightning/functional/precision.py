"""At least float32, whatever the models run in."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """Return `x` in at least float32; float64 stays float64.

    Example:
        >>> widen(torch.zeros(1, dtype=torch.bfloat16)).dtype, widen(torch.zeros(1, dtype=torch.float64)).dtype
        (torch.float32, torch.float64)

    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Return `a @ b` in their own precision, also inside an autocast region, which would narrow the product.

    Example:
        >>> with torch.autocast("cpu", dtype=torch.bfloat16):
        ...     matmul(torch.ones(2, 2), torch.ones(2, 2)).dtype
        torch.float32

    """
    with no_autocast(a):
        return a @ b


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which no autocast region changes the precision of what is computed on the device of `x`.

    Example:
        >>> with torch.autocast("cpu"), no_autocast(torch.zeros(1)):
        ...     torch.is_autocast_enabled("cpu")
        False

    """
    return torch.autocast(x.device.type, enabled=False)
