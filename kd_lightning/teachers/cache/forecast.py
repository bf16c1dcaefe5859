"""What a cache will take, told from one batch before it is built."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kd_lightning.core.errors import CacheError
from kd_lightning.teachers.cache.columns import Codec


@dataclass(frozen=True)
class Forecast:
    """Rows, bytes and seconds to come.

    Example:
        >>> print(Forecast(rows=67_349, bytes=3_400_000_000, seconds=540))
        67,349 rows, about 3.4 GB and 9 min

    """

    rows: int
    bytes: int
    seconds: float
    endless: bool = False
    """Whether nobody knows how many more rows come."""

    def without(self, rows: int) -> Forecast:
        """Return what is left where so many rows are there already."""
        left = max(self.rows - rows, 0)
        share = left / max(self.rows, 1)
        return self if self.endless else Forecast(left, round(self.bytes * share), self.seconds * share)

    def __str__(self) -> str:
        if self.endless:
            each = f"{_in_bytes(self.bytes / self.rows)} and {1000 * self.seconds / self.rows:.1f} ms"
            return f"nobody knows how many rows, about {each} for each"
        return f"{self.rows:,} rows, about {_in_bytes(self.bytes)} and {_in_time(self.seconds)}"

    def check_disk(self, folder: Path) -> None:
        """Refuse to begin what the disk cannot hold.

        Raises:
            CacheError: with both sizes.

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
        loader: what is still to come; one of ours knows its rows' lengths.
        tokens: of each row of the batch.
        padded: the batch's length with padding.
        seconds: the teacher's time for it.
        processes: that share the work.

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
