"""What each row looked like when the teacher saw it, so that a cache is never used for other rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kd_lightning.batches import BOOKKEEPING, field, is_batch_field, token_mask, view
from kd_lightning.errors import CacheError
from kd_lightning.types import Batch

LOOKED_AT = 4096
"""Values of a row without tokens (an image) that count; enough to tell any flip, crop or noise."""

TOLERANCE = 0.05
"""Of sketches, whose spread is about 1: far above the rounding of half precision, far below another image."""


class Marks(NamedTuple):
    """Of each row: a hash of its whole numbers, and a weighted mean of its fractions."""

    hashes: np.ndarray
    sketches: np.ndarray

    def differ(self, other: Marks) -> np.ndarray:
        """Return which rows differ."""
        return (self.hashes != other.hashes) | (np.abs(self.sketches - other.sketches) > TOLERANCE)


class Rows(NamedTuple):
    """What a cache must know of a batch."""

    ids: np.ndarray
    mask: Tensor | None
    inputs: dict[str, Tensor]


def rows_of(batch: Batch) -> Rows:
    """Return a batch's sample ids, and the mask and inputs of its teacher.

    Raises:
        CacheError: the batch has no `sample_id`.

    """
    ids = field(batch, "sample_id")
    if not isinstance(ids, Tensor):
        raise CacheError(
            "The batch has no 'sample_id', by which a teacher cache finds its rows. Make batches mappings with such a "
            "tensor: one whole number per row, the row's place in the data set."
        )
    eaten = view(batch, "teacher")
    inputs = dict(_inputs(eaten))
    mask = token_mask(eaten)
    if mask is None and isinstance(words := field(eaten, "input_ids"), Tensor) and words.ndim == 2:
        mask = torch.ones_like(words)
    return Rows(ids.cpu().numpy().reshape(-1), mask, inputs)


def marks_of(rows: Rows, spans: list[tuple[int, int]]) -> Marks:
    """Return the marks of a batch's rows; padding and its side do not count."""
    count = len(rows.ids)
    hashes, sketches = np.zeros(count, np.uint64), np.zeros(count, np.float32)
    starts = np.array([start for start, _ in spans])
    fields = [value for _, value in sorted(rows.inputs.items()) if value.ndim and len(value) == count]
    for number, value in enumerate(fields):
        tokens = rows.mask is not None and value.shape[:2] == rows.mask.shape
        flat, places = _by_token(value, rows.mask, starts) if tokens else _evenly(value)
        if value.is_floating_point():
            sketches += _sketch(flat, places)
        else:
            hashes += _hash(flat, places, number)
    return Marks(hashes.view(np.int64), sketches)


def _inputs(batch: Batch, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(batch, Tensor):
        yield prefix or "x", batch
    elif isinstance(batch, Mapping):
        for name, value in batch.items():
            if not (is_batch_field(name) or name in BOOKKEEPING or name == "attention_mask"):
                yield from _inputs(value, f"{prefix}{name}.")
    elif isinstance(batch, list | tuple) and batch:
        yield from _inputs(batch[0], prefix)


def _by_token(value: Tensor, mask: Any, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (B, n) values with zeros for padding, and each one's place, counted from the row's first token."""
    real = mask.bool().reshape(*mask.shape, *[1] * (value.ndim - 2))
    flat = torch.where(real, value, torch.zeros((), dtype=value.dtype, device=value.device)).flatten(1)
    width = flat.shape[1] // mask.shape[1]
    return _numpy(flat), np.arange(flat.shape[1]) - starts[:, None] * width


def _evenly(value: Tensor) -> tuple[np.ndarray, np.ndarray]:
    flat = value.reshape(len(value), -1)
    step = max(1, -(-flat.shape[1] // LOOKED_AT))
    return _numpy(flat[:, ::step]), np.arange(-(-flat.shape[1] // step))[None]


def _numpy(flat: Tensor) -> np.ndarray:
    return (flat.float() if flat.is_floating_point() else flat.long()).cpu().numpy()


def _hash(flat: np.ndarray, places: np.ndarray, number: int) -> np.ndarray:
    # Sum of value × a random odd factor of its place, modulo 2⁶⁴; a value of padding adds nothing.
    factors = _factors(flat.shape[1])[np.maximum(places, 0)]
    return (flat.astype(np.uint64) * factors).sum(1, dtype=np.uint64) * np.uint64(2 * number + 1)


def _sketch(flat: np.ndarray, places: np.ndarray) -> np.ndarray:
    signs = np.where(_factors(flat.shape[1])[np.maximum(places, 0)] >> np.uint64(63), 1.0, -1.0)
    norm = np.sqrt((flat * flat).sum(1)) + 1e-12
    return ((flat * signs).sum(1) / norm).astype(np.float32)


@lru_cache(maxsize=64)
def _factors(count: int) -> np.ndarray:
    """Return the first `count` of an endless list of fixed random odd numbers."""
    return np.random.PCG64(0x5EED).random_raw(count) | np.uint64(1)
