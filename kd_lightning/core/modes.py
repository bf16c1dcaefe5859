"""Eval mode for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_eval_mode(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Run the block with these modules in eval mode, each for itself; their modes are restored afterwards.

    Example:
        >>> net = nn.Sequential(nn.Dropout(), nn.Linear(2, 2))
        >>> with in_eval_mode([net[0]]):
        ...     net[0].training, net.training
        (False, True)
        >>> net[0].training
        True

    """
    modes = {module: module.training for module in modules}
    for module in modes:
        module.training = False
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
