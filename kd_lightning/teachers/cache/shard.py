"""Shards: some thousand rows each in one safetensors file, written whole, mapped when read."""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kd_lightning.core.checksums import checksum
from kd_lightning.core.errors import CacheError, ConfigError, WriteError
from kd_lightning.core.files import write_bytes, write_json
from kd_lightning.core.types import Features
from kd_lightning.teachers.cache.columns import Codec, spans_of
from kd_lightning.teachers.cache.rows import RowFingerprints, RowIndex, Rows, fingerprint_rows

ENDING = ".safetensors"

ROW_COLUMNS = ("#sample_id", "#tokens", "#hash", "#sketch")
"""Tensors of a shard that are not features: a few numbers per row."""

SHARD_BYTES = 1 << 26
SHARD_SECONDS = 30.0
"""A shard is written when it is that large, or that old: what a kill can cost at most."""


@dataclass(frozen=True)
class ShardInfo:
    """What a shard's file must be: kept beside it, and in the manifest."""

    name: str
    rows: int
    bytes: int
    crc32: int
    made_from: str
    """The cache's fingerprint."""

    def check(self, folder: Path, whole: bool) -> None:
        """Check that the file is what was written.

        Args:
            folder: where it is.
            whole: read all of it and compare the checksum; else only the size.

        Raises:
            CacheError: if it is missing, truncated or changed.

        """
        path = folder / self.name
        if not path.is_file():
            raise CacheError(f"The shard {path} is missing; {_REMEDY}")
        if (size := path.stat().st_size) != self.bytes:
            raise CacheError(f"The shard {path} has {size:,} bytes instead of {self.bytes:,}: {_REMEDY}")
        if whole and checksum(path) != self.crc32:
            raise CacheError(f"The shard {path} has changed since it was written (its checksum differs); {_REMEDY}")


_REMEDY = "delete the file and build the cache again, which makes these rows only."


def write_shard(folder: Path, name: str, tensors: dict[str, Tensor], codec: Codec, made_from: str) -> ShardInfo:
    """Write a shard and its `ShardInfo`, each by one rename; only with both is it finished.

    Raises:
        CacheError: if the disk is full or cannot be written.

    """
    content = save(tensors, metadata=codec.metadata())
    info = ShardInfo(name, len(tensors[ROW_COLUMNS[0]]), len(content), zlib.crc32(content), made_from)
    try:
        write_bytes(folder / name, content)
        write_json(folder / f"{name}.json", asdict(info))
    except WriteError as error:
        raise CacheError(f"{error} What was written before this shard stays.") from error
    return info


def finished_shards(folder: Path, made_from: str, verify: bool = False) -> list[ShardInfo]:
    """Return the shards that were written whole and are still there.

    Raises:
        CacheError: if one is of another cache or truncated, or with `verify`, changed.

    """
    infos = [_info(path) for path in sorted(folder.glob(f"*{ENDING}.json"))]
    found = [info for info in infos if (folder / info.name).is_file()]
    for info in found:
        if info.made_from != made_from:
            raise CacheError(f"The shard {folder / info.name} is of another teacher cache; {_REMEDY}")
        info.check(folder, whole=verify)
    return found


def _info(path: Path) -> ShardInfo:
    try:
        return ShardInfo(**json.loads(path.read_text()) | {"name": path.name.removesuffix(".json")})
    except (ValueError, TypeError) as error:
        raise CacheError(f"The file {path} is damaged ({error}); {_REMEDY}") from error


def next_number(folder: Path, rank: int) -> int:
    """Return the number of a process's next shard, above those of all that it has finished."""
    names = [path.name for path in folder.glob(f"{rank:03d}-*{ENDING}.json")]
    return max((int(name.partition("-")[2].partition(".")[0]) + 1 for name in names), default=0)


class Shard:
    """A shard's rows, mapped from disk.

    Args:
        path: the file.

    Raises:
        CacheError: if the file is no shard.

    """

    def __init__(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
                self.codec = Codec.from_metadata(file.metadata() or {})
            self.ids, self.tokens, hashes, sketches = (tensors.pop(name).numpy() for name in ROW_COLUMNS)
        except (SafetensorError, ConfigError, OSError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise CacheError(f"The shard {path} cannot be read ({error}); {_REMEDY}") from error
        self.fingerprints = RowFingerprints(hashes, sketches)
        self._flat = {column: as_numpy(tensor) for column, tensor in tensors.items()}
        self._ends: dict[int, np.ndarray] = {}

    def _ends_of(self, token_axes: int) -> np.ndarray:
        """Return where rows end in columns with that many token axes: few numbers per row, all else stays on disk."""
        if token_axes not in self._ends:
            self._ends[token_axes] = np.cumsum(self.tokens**token_axes)
        return self._ends[token_axes]

    def block(self, column: str, row: int) -> Any:
        """Return one row's feature as a NumPy view; bfloat16 comes as 16-bit integers."""
        layout = self.codec.layouts[column]
        shape = layout.shape(int(self.tokens[row]))
        end = int(self._ends_of(layout.token_axes)[row]) * layout.per_token
        return self._flat[column][end - math.prod(shape) : end].reshape(shape)


def as_numpy(tensor: Tensor) -> Any:
    """Return a view of a tensor's memory; NumPy has no bfloat16, so its bits come as integers.

    Example:
        >>> as_numpy(torch.ones(1, dtype=torch.bfloat16))
        array([16256], dtype=int16)

    """
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


class Writer:
    """Collects the rows of one process in memory and writes them shard by shard.

    Args:
        folder: the cache's.
        codec: how features are stored.
        made_from: the cache's fingerprint, which its shards carry.
        rank: of the process; part of its shards' names.

    """

    def __init__(self, folder: Path, codec: Codec, made_from: str, rank: int = 0) -> None:
        self.folder = folder
        self.codec = codec
        self.made_from = made_from
        self.rank = rank
        self.index = index_of(Shard(folder / info.name) for info in finished_shards(folder, made_from, verify=True))
        self._number = next_number(folder, rank)
        self._clear()

    def _clear(self) -> None:
        self._columns: dict[str, list[Tensor]] = {}
        self._rows: list[tuple[np.ndarray, ...]] = []
        self._bytes, self._since = 0, time.monotonic()

    def add(self, rows: Rows, run: Callable[[], Features]) -> int:
        """Add the rows of a batch that are missing, and return how many; the teacher is run if there are any.

        Raises:
            CacheError: if a row has the `sample_id` of another one.

        """
        if not len(rows.ids):
            return 0
        spans = spans_of(rows.mask, len(rows.ids))
        fingerprints = fingerprint_rows(rows, spans)
        if places := self.index.missing(rows.ids, fingerprints):
            for column, feature in self.codec.pack(run(), rows.mask, len(rows.ids)).items():
                blocks = self.codec.layouts[column].cut(feature.detach().cpu(), spans, places)
                self._columns.setdefault(column, []).append(torch.cat(blocks))
                self._bytes += self._columns[column][-1].nbytes
            ids, own = rows.ids[places].astype(np.int64), fingerprints.at(places)
            tokens = np.array([spans[place][1] for place in places], dtype=np.int64)
            self._rows.append((ids, tokens, *own))
            self.index.add(ids, own)
        if self._bytes >= SHARD_BYTES or time.monotonic() - self._since >= SHARD_SECONDS:
            self.flush()
        return len(places)

    def flush(self) -> None:
        """Write a shard of the rows collected so far, if there are any."""
        if self._rows:
            numbers = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*self._rows, strict=True))
            columns = dict(zip(ROW_COLUMNS, numbers, strict=True))
            columns |= {name: torch.cat(parts) for name, parts in self._columns.items()}
            name = f"{self.rank:03d}-{self._number:06d}{ENDING}"
            write_shard(self.folder, name, columns, self.codec, self.made_from)
            self._number += 1
        self._clear()


def index_of(shards: Iterable[Shard]) -> RowIndex:
    """Return the rows of all shards.

    Raises:
        CacheError: if two have different rows of one `sample_id`.

    """
    index = RowIndex()
    for shard in shards:
        places = index.missing(shard.ids, shard.fingerprints)  # two processes may have written one row
        index.add(shard.ids[places], shard.fingerprints.at(places))
    return index
