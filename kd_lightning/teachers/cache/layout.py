"""How one row's share of a feature lies on disk: without padding, whatever the batch it came from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from torch import Tensor

from kd_lightning.core.errors import CacheError
from kd_lightning.core.types import Kind

Spans: TypeAlias = Sequence[tuple[int, int]]
"""Where each row's tokens begin and how many there are."""

TOKEN_AXES: dict[tuple[Kind, int], tuple[int, ...]] = {
    ("tokens", 3): (1,),
    ("heads", 4): (2,),
    ("attention", 4): (2, 3),
    ("classes", 3): (1,),
    ("positions", 2): (1,),
}
"""By kind and number of axes: those over tokens."""


@dataclass(frozen=True)
class Layout:
    """The shape of one row's feature; None stands for an axis that is as long as the row has tokens.

    Example:
        >>> Layout((12, None, None)).shape(5), Layout((None, 384)).sizes(np.array([2, 3])).tolist()
        ((12, 5, 5), [768, 1152])

    """

    dims: tuple[int | None, ...]

    @classmethod
    def of(cls, kind: Kind | None, feature: Tensor, mask: Tensor | None) -> Layout:
        """Tell which axes of a feature (B, …) run over tokens, those of a (B, L) mask: none without a mask."""
        axes = () if mask is None else _token_axes(kind, feature, mask)
        return cls(tuple(None if axis in axes else size for axis, size in enumerate(feature.shape) if axis))

    def shape(self, tokens: int) -> tuple[int, ...]:
        """Return the shape of a row of so many tokens."""
        return tuple(tokens if size is None else size for size in self.dims)

    @property
    def per_token(self) -> int:
        """The number of elements where every row has one token."""
        return math.prod(size for size in self.dims if size is not None)

    @property
    def power(self) -> int:
        """How often the number of tokens counts in the size of a row."""
        return self.dims.count(None)

    def sizes(self, tokens: np.ndarray) -> np.ndarray:
        """Return the number of elements of each row."""
        return self.per_token * tokens.astype(np.int64) ** self.power

    def part(self, start: int, tokens: int) -> tuple[slice, ...]:
        """Return where a row's tokens are in a padded row."""
        return tuple(slice(start, start + tokens) if size is None else slice(None) for size in self.dims)

    def cut(self, feature: Tensor, spans: Spans, rows: Sequence[int]) -> list[Tensor]:
        """Return some rows of a feature (B, …) without their padding, flat."""
        return [feature[row][self.part(*spans[row])].reshape(-1) for row in rows]


def _token_axes(kind: Kind | None, feature: Tensor, mask: Tensor) -> tuple[int, ...]:
    """Return the axes over tokens of the mask; none where the first is of another length (tokens of a decoder)."""
    axes = _guess(feature, mask) if kind is None else TOKEN_AXES.get((kind, feature.ndim), ())
    length = mask.shape[1]
    if not axes or len(feature) != len(mask) or feature.shape[axes[0]] != length:
        return ()
    return tuple(axis for axis in axes if feature.shape[axis] == length)


def _guess(feature: Tensor, mask: Tensor) -> tuple[int, ...]:
    """Return which axes of a feature of unknown kind run over tokens, if they are as long as the mask."""
    if feature.ndim != 4:
        return (1,) if feature.ndim == 3 else ()
    if feature.shape[2:] != (mask.shape[1], mask.shape[1]):
        return (2,)
    # If it is attention, nothing attends to padding; if it only is as wide as the batch is long, there are values that
    # must not be cut off.
    padding = ~mask.bool()[:, None, None, :]
    return (2,) if bool((padding & (feature != 0)).any()) else (2, 3)


def spans_of(mask: Tensor | None, rows: int) -> list[tuple[int, int]]:
    """Return the stretch from each row's first token to its last; without a mask no row has tokens.

    Example:
        >>> import torch
        >>> spans_of(torch.tensor([[0, 1, 1], [1, 0, 0]]), rows=2)
        [(1, 2), (0, 1)]

    """
    if mask is None:
        return [(0, 0)] * rows
    real = mask.bool().cpu().numpy()
    first, last = real.argmax(1), real.shape[1] - real[:, ::-1].argmax(1)
    tokens = np.where(real.any(1), last - first, 0)
    return list(zip(first.tolist(), tokens.tolist(), strict=True))


def check_same(address: str, known: Layout, now: Layout) -> None:
    """Refuse a feature whose rows have another shape than before.

    Raises:
        CacheError: with both shapes.

    """
    if known != now:
        raise CacheError(
            f"'{address}' has rows of shape {list(now.dims)} in one batch and {list(known.dims)} in another. Rows of "
            "different lengths need an 'attention_mask' in the batch, which says where their tokens are."
        )
