"""What is checked before a cache is built: that rows and outputs are deterministic, and the space and time it takes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from kd_lightning.core.errors import CacheError
from kd_lightning.core.types import Batch, Features
from kd_lightning.functional.precision import widen
from kd_lightning.teachers.cache.columns import Codec

LOOKED_AT = 8
"""Rows that are read twice; of those that change half of the time, one in 250 data sets goes unnoticed here."""

TOLERANCE = 0.05
"""Of the norm of a feature: far above what another place in the batch does to half precision."""


def check_numbers(features: Features, mask: Tensor | None) -> None:
    """Raise an error for a teacher that gives not-a-number for a real token, or for a row.

    Args:
        features: of a batch.
        mask: which tokens are real, (rows, tokens); None: rows have none.

    Raises:
        CacheError: naming the address.

    """
    for address, feature in features.items():
        wrong = feature.isnan()
        if mask is not None and wrong.any():
            wrong = wrong.any(-1).any(1) if wrong.ndim == 4 else wrong  # heads × tokens × tokens
            wrong = wrong[mask.bool()] if wrong.shape[:2] == mask.shape else wrong
        if wrong.any():
            raise CacheError(
                f"The teacher's '{address}' is not a number in some row, from which nothing can be learnt."
            )


def check_rows(dataset: Any) -> None:
    """Check that rows are the same each time they are read.

    Raises:
        CacheError: if they are augmented at random.

    """
    if getattr(dataset, "augment", None) or any(_changes(dataset, row) for row in range(LOOKED_AT)):
        raise CacheError(
            "These rows are augmented at random, and a cache holds one teacher output per row. Leave the augmentation "
            "out, or use a live teacher."
        )


def reversed_rows(batch: Batch, rows: int) -> Batch:
    """Return a batch with its rows in reverse order."""
    return apply_to_collection(batch, Tensor, lambda x: x.flip(0) if x.ndim and len(x) == rows else x)


def check_features(features: Features, reverse: Features) -> None:
    """Check that a row's features depend neither on other rows of the batch nor on chance.

    Args:
        features: of a batch.
        reverse: of the same rows in reverse order.

    Raises:
        CacheError: if one does; names the feature.

    """
    for address, feature in features.items():
        one, other = (widen(x).nan_to_num() for x in (feature, reverse[address].flip(0)))
        if (one - other).norm() > TOLERANCE * one.norm() + 1e-6:
            raise CacheError(
                f"The teacher's '{address}' of a row changes with the order of the rows in a batch, or at random, and "
                "a cache holds it once. Match another feature, or use a live teacher."
            )


def _changes(dataset: Any, row: int) -> bool:
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__") or row >= len(dataset):
        return False
    try:
        one, other = dataset[row], dataset[row]
    except (KeyError, TypeError, IndexError, NotImplementedError):  # its rows have no integer index
        return False
    return not _equal(one, other)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, Tensor):
        return torch.equal(one.nan_to_num(), other.nan_to_num())
    if isinstance(one, np.ndarray | np.generic | float):
        numbers = np.asarray(one).dtype.kind in "fc"
        return np.array_equal(one, other, equal_nan=True) if numbers else np.array_equal(one, other)
    same = one == other
    return same if isinstance(same, bool) else True  # what cannot be compared is left to the row fingerprints


@dataclass(frozen=True)
class Forecast:
    """Rows, bytes and seconds that are still to come.

    Example:
        >>> print(Forecast(rows=67_349, bytes=3_400_000_000, seconds=540))
        67,349 rows, about 3.4 GB and 9 min

    """

    rows: int
    bytes: int
    seconds: float
    endless: bool = False
    """Whether the number of rows is unknown."""

    def without(self, rows: int) -> Forecast:
        """Return what is left if so many rows are stored already."""
        left = max(self.rows - rows, 0)
        share = left / max(self.rows, 1)
        return self if self.endless else Forecast(left, round(self.bytes * share), self.seconds * share)

    def __str__(self) -> str:
        if self.endless:
            each = f"{_in_bytes(self.bytes / self.rows)} and {1000 * self.seconds / self.rows:.1f} ms"
            return f"an unknown number of rows, about {each} for each"
        return f"{self.rows:,} rows, about {_in_bytes(self.bytes)} and {_in_time(self.seconds)}"

    def check_disk(self, folder: Path) -> None:
        """Check that the disk has room for it.

        Raises:
            CacheError: if it does not; with both sizes.

        """
        free = shutil.disk_usage(folder).free
        if self.bytes > free:
            raise CacheError(
                f"The teacher cache needs about {_in_bytes(self.bytes)}, and {folder} has {_in_bytes(free)} free. "
                "Match fewer layers, keep fewer logits (top_k), or set KD_CACHE to another disk."
            )


def forecast(codec: Codec, loader: Any, tokens: np.ndarray, padded: int, seconds: float, processes: int) -> Forecast:
    """Extrapolate from one batch.

    Args:
        codec: has packed the batch.
        loader: gives all batches; one of this package knows its rows' lengths.
        tokens: of each row of the batch.
        padded: the batch's length with padding.
        seconds: the teacher's time for it.
        processes: number of them.

    """
    lengths = _lengths(loader) if padded else None
    if lengths is None:
        rows = _count(loader, len(tokens), processes)
        if rows is None:
            return Forecast(len(tokens), _bytes(codec, tokens), seconds, endless=True)
        share = rows / len(tokens)
        return Forecast(rows, round(share * _bytes(codec, tokens)), share * seconds / processes)
    work = lengths.sum() / max(len(tokens) * padded, 1)
    return Forecast(len(lengths), _bytes(codec, lengths), work * seconds / processes)


def _lengths(loader: Any) -> np.ndarray | None:
    lengths = getattr(getattr(loader, "batch_sampler", None), "lengths", None)
    return None if lengths is None else np.asarray(lengths)


def _count(loader: Any, batch: int, processes: int) -> int | None:
    dataset: Any = getattr(loader, "dataset", None)
    if hasattr(dataset, "__len__"):
        return len(dataset) * (batch if getattr(loader, "batch_size", 1) is None else 1)  # of batches made before
    try:
        return len(loader) * batch * processes
    except TypeError:
        return None


def _bytes(codec: Codec, tokens: np.ndarray) -> int:
    """Return what rows of so many tokens take; each has 40 bytes of bookkeeping."""
    columns = codec.layouts.items()
    return sum(codec.dtype_of(name).itemsize * int(own.sizes(tokens).sum()) for name, own in columns) + 40 * len(tokens)


def _in_bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.{0 if unit == 'bytes' else 1}f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _in_time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
