"""Adaptive inference: rows leave a model where a branch is sure of them, and the others go on in smaller batches."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.core.errors import ConfigError
from kd_lightning.functional.precision import widen

OF_ROWS = ("mask", "position", "lang")
"""Parts of the names of those arguments of a layer that have an entry for each row, beside its hidden states."""


@dataclass(frozen=True)
class Adaptive:
    """What became of the rows of a batch that left where they were sure.

    Args:
        logits: (B, C), of the classifier behind which a row left.
        layers: (B,), how many layers it ran.

    """

    logits: Tensor
    layers: Tensor


class Leaving:
    """One adaptive pass over a batch: which rows are still there, and what became of the others.

    Hooks on the layers let each branch decide behind its layer, and cut the arguments of later layers to the rows that
    are left; they are gone after the pass.

    Args:
        layers: of the model, in order.
        branches: of the first layers, all but the last; none: no row leaves.
        speed: below which share of the largest entropy a row leaves.
        mask: (B, L), or None.
        rows: B.

    """

    def __init__(
        self, layers: Sequence[nn.Module], branches: Sequence[nn.Module], speed: float, mask: Tensor | None, rows: int
    ) -> None:
        self.layers, self.branches, self.speed, self.mask = layers, branches, speed, mask
        self.size = rows
        device = next(layers[0].parameters()).device
        self.left = torch.arange(rows, device=device)
        self.depth = torch.full((rows,), len(layers), device=device)
        self.found: list[tuple[Tensor, Tensor]] = []

    def run(self, model: Any, inputs: Mapping[str, Any]) -> Adaptive:
        """Return logits and layers of each row.

        Args:
            model: returns logits for the rows that its layers return.
            inputs: its arguments.

        """
        with self._hooked(), suppress(_AllLeft):
            logits = model(**inputs).logits
            self.found.append((self.left, logits))
        rows, logits = (torch.cat(parts) for parts in zip(*self.found, strict=True))
        return Adaptive(logits[rows.argsort()], self.depth)

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        with ExitStack() as hooks:
            for layer in self.layers[1:]:
                hooks.callback(layer.register_forward_pre_hook(self._cut_arguments, with_kwargs=True).remove)
            for number, (layer, branch) in enumerate(zip(self.layers, self.branches, strict=False), start=1):
                hooks.callback(layer.register_forward_hook(partial(self._decide, number, branch)).remove)
            yield

    def _decide(self, number: int, branch: nn.Module, layer: nn.Module, args: Any, output: Any) -> Any:
        """Let the rows go of which the branch is sure; return the layer's output without them."""
        hidden = output[0] if isinstance(output, tuple) else output
        if len(hidden) != len(self.left):
            raise ConfigError(
                f"The layers of a {type(layer).__name__} do not keep rows on the first axis, so that none can leave."
            )
        logits = branch(hidden, None if self.mask is None else self.mask[self.left])
        sure = uncertainty(logits) < self.speed
        if not sure.any():
            return None
        self.depth[self.left[sure]] = number
        self.found.append((self.left[sure], logits[sure]))
        self.left = self.left[~sure]
        if not len(self.left):
            raise _AllLeft
        return _cut(output, ~sure)

    def _cut_arguments(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Cut masks and positions to the rows that are left; the hidden states are those rows already."""
        if len(self.left) == self.size:
            return None
        names = list(inspect.signature(layer.forward).parameters)
        placed = tuple(self._cut_one(name, x) for name, x in zip(names, args, strict=False)) + args[len(names) :]
        return placed, {name: self._cut_one(name, x) for name, x in kwargs.items()}

    def _cut_one(self, name: str, value: Any) -> Any:
        return _cut(value, self.left, self.size) if any(part in name for part in OF_ROWS) else value


class _AllLeft(Exception):
    """No row is left to go on."""


def _cut(value: Any, rows: Tensor, size: int | None = None) -> Any:
    """Return the chosen rows of a tensor, or of each tensor in a tuple, of as many as there are."""
    if isinstance(value, tuple):
        return tuple(_cut(x, rows, size) for x in value)
    whole = len(rows) if size is None else size
    return value[rows] if isinstance(value, Tensor) and value.dim() and len(value) == whole else value


def uncertainty(logits: Tensor) -> Tensor:
    """Return H(p) / log C of each row of logits (B, C), (B,): 0 where it is sure, 1 where it is uniform.

    Example:
        >>> uncertainty(torch.tensor([[2.0, 2.0, 2.0], [9.0, 0.0, 0.0]])).round(decimals=3)
        tensor([1.0000, 0.0020])

    """
    log_p = widen(logits).log_softmax(-1)
    share = -(log_p.exp() * log_p).sum(-1) / math.log(logits.shape[-1])
    uniform = logits.amax(-1) == logits.amin(-1)  # 1 is theirs alone, whatever rounding makes of others
    return share.clamp(max=1 - torch.finfo(share.dtype).eps).masked_fill(uniform, 1.0)
