"""How long a forward pass takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from kd_lightning.core.adapter import Arguments


@contextmanager
def eval_without_grad(model: nn.Module) -> Iterator[None]:
    """Hold a model in eval mode and without gradient, so that measuring it changes nothing in it."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def forward_ms(model: nn.Module, arguments: Arguments, repeats: int) -> float:
    """Return the milliseconds of a forward pass in eval mode, the least of several after two untimed ones.

    The least, because other work on the machine only ever adds. The model stays in the mode it was in.

    Example:
        >>> forward_ms(nn.Linear(2, 2), ((torch.zeros(1, 2),), {}), repeats=3) > 0
        True

    """
    with eval_without_grad(model):
        return 1000 * min([_seconds(model, arguments) for _ in range(repeats + 2)][2:])


def _seconds(model: nn.Module, arguments: Arguments) -> float:
    args, kwargs = arguments
    on_cuda = any(p.is_cuda for p in model.parameters())
    if on_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    model(*args, **kwargs)
    if on_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start
