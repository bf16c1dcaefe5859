"""The rows of a cache: what each looked like when the teacher ran on it, so that it is never used for other rows."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from kd_lightning.core.batch import BOOKKEEPING, ROW_MARK, VIEW_ID, field, is_batch_field, sub_batch, token_mask
from kd_lightning.core.errors import CacheError
from kd_lightning.core.types import Batch

LOOKED_AT = 4096
"""Values of a row without tokens (an image) compared; enough to tell flips, crops and noise above some hundredths."""

LOOKED_AT_OF_TOKEN = 16
"""The same of each token, where tokens come as vectors."""

SKETCHES = 3

TOLERANCE = 0.014
"""Of sketches, whose spread is about 1: eight times the rounding of bfloat16, far below another image."""

LARGE, SMALL = 3e38, 1e-6
"""What is infinite in one precision is large in another; what is zero in one is small."""


class RowFingerprints(NamedTuple):
    """Of each row: a hash (B,) of its integers; weighted means and the size (B, 4) of its floating-point values."""

    hashes: np.ndarray
    sketches: np.ndarray

    def differ(self, other: RowFingerprints) -> np.ndarray:
        """Return which rows differ."""
        return (self.hashes != other.hashes) | (np.abs(self.sketches - other.sketches) > TOLERANCE).any(1)

    def at(self, places: Any) -> RowFingerprints:
        """Return the fingerprints of some rows."""
        return RowFingerprints(self.hashes[places], self.sketches[places])


class Rows(NamedTuple):
    """What a cache reads of a batch: sample ids, token mask, and the teacher's inputs."""

    ids: np.ndarray
    mask: Tensor | None
    inputs: dict[str, Tensor]


def rows_of(batch: Batch) -> Rows:
    """Return a batch's ids in a cache, and the mask and inputs of its teacher.

    The ids are its `sample_id`s, or its `view_id`s where rows come in several views. Where the batch has a `row_mark`,
    a hash that the data module made of what rows are, it stands for the inputs.

    Raises:
        CacheError: if the batch has no `sample_id`, or not one integer per row.

    """
    ids = field(batch, "sample_id")
    ids = ids if (views := field(batch, VIEW_ID)) is None else views
    if not isinstance(ids, Tensor) or ids.is_floating_point():
        raise CacheError(
            "The batch has no 'sample_id', by which a teacher cache finds its rows. Make batches mappings with such a "
            "tensor: one integer per row, the row's index in the data set."
        )
    own, mark = sub_batch(batch, "teacher"), field(batch, ROW_MARK)
    inputs = dict(_inputs(own)) if mark is None else {ROW_MARK: mark}
    mask = token_mask(own)
    if mask is None and isinstance(words := field(own, "input_ids"), Tensor) and words.ndim == 2:
        mask = torch.ones_like(words)
    if mask is not None:
        inputs["attention_mask."] = mask.bool().long()  # a hole in it changes the teacher's outputs
        if len(mask) != ids.numel():
            raise CacheError(f"The batch has {ids.numel()} sample ids and {len(mask)} rows; give one number per row.")
    return Rows(ids.cpu().numpy().reshape(-1), mask, inputs)


def fingerprint_rows(rows: Rows, spans: list[tuple[int, int]]) -> RowFingerprints:
    """Return the fingerprints of a batch's rows; padding and its side make no difference."""
    count = len(rows.ids)
    hashes, sketches = np.zeros(count, np.uint64), np.zeros((count, SKETCHES + 1), np.float32)
    starts = np.array([start for start, _ in spans])
    for name, value in _per_row(rows.inputs, count):
        tokens = rows.mask is not None and value.shape[:2] == rows.mask.shape
        flat, places = _by_token(value, rows.mask, starts) if tokens else _evenly(value)
        factors = _factors(flat.shape[1])[np.maximum(places, 0)] * np.uint64(2 * crc32(name.encode()) + 1)
        if value.is_floating_point():
            sketches += _sketch(flat, factors)
        else:
            # Values × random odd factors of their places, modulo 2⁶⁴; padding adds nothing.
            hashes += (flat.astype(np.uint64) * factors).sum(1, dtype=np.uint64)
    return RowFingerprints(hashes.view(np.int64), sketches)


def _per_row(inputs: Mapping[str, Tensor], count: int) -> Iterator[tuple[str, Tensor]]:
    """Yield what has one entry per row, or one for all rows, such as positions (1, L)."""
    for name, value in inputs.items():
        if value.ndim == 0 or len(value) == 1:
            yield name, value.expand(count, *value.shape[1:])
        elif len(value) == count:
            yield name, value


def _inputs(batch: Batch, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(batch, Tensor):
        yield prefix or "x", batch
    elif isinstance(batch, Mapping):
        for name, value in batch.items():
            if not (is_batch_field(name) or name in BOOKKEEPING):
                yield from _inputs(value, f"{prefix}{name}.")
    elif isinstance(batch, list | tuple) and prefix:
        for number, value in enumerate(batch):
            yield from _inputs(value, f"{prefix}{number}.")
    elif isinstance(batch, list | tuple) and batch:
        yield from _inputs(batch[0])  # of (x, y)


def _by_token(value: Tensor, mask: Any, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (B, n) values with zeros for padding, and each one's place, counted from the row's first token."""
    if value.is_floating_point():
        wide = value.reshape(*mask.shape, -1)
        value = wide[..., :: max(1, -(-wide.shape[2] // LOOKED_AT_OF_TOKEN))]
    real = mask.bool().reshape(*mask.shape, *[1] * (value.ndim - 2))
    flat = torch.where(real, value, torch.zeros((), dtype=value.dtype, device=value.device)).flatten(1)
    width = flat.shape[1] // mask.shape[1]
    return _numpy(flat), np.arange(flat.shape[1]) - starts[:, None] * width


def _evenly(value: Tensor) -> tuple[np.ndarray, np.ndarray]:
    flat = value.reshape(len(value), -1)
    step = max(1, -(-flat.shape[1] // LOOKED_AT))
    return _numpy(flat[:, ::step]), np.arange(-(-flat.shape[1] // step))[None]


def _numpy(flat: Tensor) -> np.ndarray:
    if not flat.is_floating_point():
        return flat.long().cpu().numpy()
    return flat.double().nan_to_num(0.0, LARGE, -LARGE).clamp(-LARGE, LARGE).cpu().numpy()


def _sketch(flat: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return the sums under random signs, over the norm, and the norm's logarithm."""
    flat = np.arcsinh(flat)  # so that a column of large numbers does not hide the others
    norm = np.sqrt((flat * flat).sum(1)) + SMALL
    bits = (factors >> np.uint64(63 - i) & np.uint64(1) for i in range(SKETCHES))
    sums = [(flat * np.where(bit, 1.0, -1.0)).sum(1) / norm for bit in bits]
    return np.stack([*sums, np.log2(norm)], axis=1).astype(np.float32)


@lru_cache(maxsize=64)
def _factors(count: int) -> np.ndarray:
    """Return the first `count` of an endless list of fixed random odd numbers."""
    return np.random.PCG64(0x5EED).random_raw(count) | np.uint64(1)


class RowIndex:
    """Rows that are stored already, by `sample_id`, with their fingerprints.

    Example:
        >>> index = RowIndex()
        >>> index.add(np.array([5, 6]), RowFingerprints(np.array([11, 12]), np.zeros((2, 4), np.float32)))
        >>> batch = RowFingerprints(np.array([12, 13, 13]), np.zeros((3, 4), np.float32))
        >>> len(index), index.missing(np.array([6, 7, 7]), batch)
        (2, [1])

    """

    def __init__(self) -> None:
        self._place: dict[int, int] = {}
        self._hashes, self._sketches = array("q"), array("f")  # plain numbers: there may be millions of rows
        self._width = 1

    def __len__(self) -> int:
        return len(self._place)

    def add(self, ids: np.ndarray, fingerprints: RowFingerprints) -> None:
        """Add rows that are new."""
        self._place.update(zip(ids.tolist(), range(len(self), len(self) + len(ids)), strict=True))
        self._hashes.frombytes(np.ascontiguousarray(fingerprints.hashes, np.int64).tobytes())
        self._sketches.frombytes(np.ascontiguousarray(fingerprints.sketches, np.float32).tobytes())
        self._width = fingerprints.sketches.shape[1]

    def missing(self, ids: np.ndarray, fingerprints: RowFingerprints) -> list[int]:
        """Return the places in a batch of rows that are new, each row once.

        Raises:
            CacheError: if a row has the `sample_id` of another one.

        """
        first: dict[int, int] = {}
        for place, row in enumerate(ids.tolist()):
            first.setdefault(row, place)
        twins = [(place, first[row]) for place, row in enumerate(ids.tolist()) if first[row] != place]
        _check_same(ids, fingerprints, [place for place, _ in twins], fingerprints.at([twin for _, twin in twins]))
        known = [place for row, place in first.items() if row in self._place]
        _check_same(ids, fingerprints, known, self._at([self._place[int(ids[place])] for place in known]))
        return [place for row, place in first.items() if row not in self._place]

    def _at(self, places: list[int]) -> RowFingerprints:
        sketches = np.frombuffer(self._sketches, np.float32).reshape(-1, self._width)
        return RowFingerprints(np.frombuffer(self._hashes, np.int64)[places], sketches[places])


def _check_same(ids: np.ndarray, fingerprints: RowFingerprints, places: list[int], others: RowFingerprints) -> None:
    if not places:
        return
    if (changed := fingerprints.at(places).differ(others)).any():
        raise CacheError(
            f"Row {ids[places][changed][0]} (its sample_id) came twice and looked different: the number must be of one "
            "row among all in a cache, and rows must not be augmented at random. Give each data set, or task, a cache "
            "of its own."
        )
