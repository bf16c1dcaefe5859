"""Random numbers as a pure function of a seed and a place: the same on every device, run and number of processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from kd_lightning.functional.gathering import ranks

_GOLDEN, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
"""The constants of SplitMix64 as signed numbers (Steele et al. 2014): a step, and two multipliers that mix bits."""


def uniform(
    shape: tuple[int, ...], seed: int, rows: Tensor | None = None, device: torch.device | str = "cpu"
) -> Tensor:
    """Return numbers in [0, 1), float32, that depend on the seed, the row and the place in it.

    Args:
        shape: (B, …).
        seed: another one, other numbers.
        rows: (B,), a number for each row, such as its `sample_id`: its numbers are then the same in any batch. None:
            its place in the batches of all ranks.
        device: where to make them.

    Example:
        >>> import torch
        >>> one = uniform((2, 3), seed=1, rows=torch.tensor([7, 9]))
        >>> torch.equal(one[1], uniform((1, 3), seed=1, rows=torch.tensor([9]))[0])
        True

    """
    if rows is None:
        rank = dist.get_rank() if ranks() > 1 else 0
        rows = torch.arange(shape[0], device=device) + (rank << 32)
    of_rows = _mixed(_mixed(rows.to(torch.int64)) + seed)
    places = torch.arange(max(torch.Size(shape[1:]).numel(), 1), device=rows.device)
    bits = _mixed(of_rows[:, None] + places)
    return ((bits >> 40) & 0xFFFFFF).float().div(2**24).reshape(shape)


def _mixed(x: Tensor) -> Tensor:
    """Return 64 unrelated bits for each number."""
    x = x + _GOLDEN
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Return `x` shifted to the right as if it had no sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
