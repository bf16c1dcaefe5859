"""Rows of all ranks in one tensor, with gradients that average to those of one process with the joint batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from kd_lightning.core.errors import MatchError


def ranks() -> int:
    """Return how many processes train together; 1 where none were started."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(*tensors: Tensor) -> list[Tensor]:
    """Return tensors with the rows of all ranks, in the order of ranks; every rank must call, and gets the same.

    A loss of them has the same value everywhere, and each rank's rows get its gradient times the number of ranks: once
    gradients are averaged, as data parallel training does, they are those of one process on the joint batch. Batches
    may be of unequal sizes.

    Args:
        tensors: with the same number of rows, B on this rank.

    Raises:
        MatchError: if rows of two ranks differ in shape.

    Example:
        >>> import torch
        >>> gather_rows(torch.tensor([1.0, 2.0]))  # in one process
        [tensor([1., 2.])]

    """
    if ranks() == 1 or not tensors:
        return list(tensors)
    shapes = [size for x in tensors for size in x.shape[1:]]
    mine = torch.tensor([len(tensors[0]), *shapes], device=tensors[0].device)
    sizes = [torch.zeros_like(mine) for _ in range(ranks())]
    dist.all_gather(sizes, mine)
    counts, others = [int(size[0]) for size in sizes], [size[1:].tolist() for size in sizes]
    if any(other != shapes for other in others):  # known to all ranks, so that none waits for another
        raise MatchError(
            f"Samples of all processes are compared, but their features differ in shape: {others}. Bring them to one "
            "size or length, or give the loss gather=False."
        )
    return [_Gathered.apply(x, counts) for x in tensors]


class _Gathered(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: list[int]) -> Tensor:
        rank = dist.get_rank()
        ctx.rows = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        sent = x.to(torch.uint8) if x.dtype is torch.bool else x
        padded = sent.new_zeros(max(counts), *x.shape[1:])  # every rank must send as much
        padded[: len(x)] = sent
        found = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(found, padded)
        return torch.cat([part[:count] for part, count in zip(found, counts, strict=True)]).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad[ctx.rows] * ranks(), None
