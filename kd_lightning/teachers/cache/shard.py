"""A shard: some thousand rows in one safetensors file, written whole, mapped when read."""

from __future__ import annotations

import json
import math
import os
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kd_lightning.core.errors import CacheError, ConfigError
from kd_lightning.core.files import write_json
from kd_lightning.teachers.cache.columns import Codec
from kd_lightning.teachers.cache.row_fingerprints import Marks

ENDING = ".safetensors"

BOOK = ("#sample_id", "#tokens", "#hash", "#sketch")
"""Tensors of a shard that are not features, and have no address: some numbers per row."""


@dataclass(frozen=True)
class ShardInfo:
    """What must be true of a shard's file."""

    name: str
    rows: int
    bytes: int
    crc32: int
    made_from: str
    """The cache's fingerprint."""

    def check(self, folder: Path, whole: bool) -> None:
        """Refuse a file that is not what was written.

        Args:
            folder: where it is.
            whole: read all of it; else only its size is looked at.

        Raises:
            CacheError: it is missing, cut short or changed.

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
    """Write a shard, and beside it what is known of it, each by one rename; only with both is it finished.

    Raises:
        CacheError: the disk does not take it.

    """
    content = save(tensors, metadata=codec.notes())
    info = ShardInfo(name, len(tensors[BOOK[0]]), len(content), zlib.crc32(content), made_from)
    try:
        _write(folder, name, content)
        write_json(folder / f"{name}.json", asdict(info))
    except OSError as error:
        for scratch in folder.glob(f".{name}*.tmp"):
            scratch.unlink(missing_ok=True)
        raise CacheError(
            f"Cannot write the shard {folder / name} ({error.strerror}). What was written before it stays: make room, "
            "and build again, which goes on from there."
        ) from error
    return info


def _write(folder: Path, name: str, content: bytes) -> None:
    scratch = folder / f".{name}.tmp"
    with scratch.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(folder / name)


def finished_shards(folder: Path, made_from: str, verify: bool = False) -> list[ShardInfo]:
    """Return the shards that were written whole; one that was deleted since is none.

    Raises:
        CacheError: a shard of another cache is among them, or one that was cut short; with `verify`, or changed.

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
    """Return the number of a process's next shard, above those of all that it ever finished."""
    names = [path.name for path in folder.glob(f"{rank:03d}-*{ENDING}.json")]
    return max((int(name.partition("-")[2].partition(".")[0]) + 1 for name in names), default=0)


def checksum(path: Path, chunk: int = 1 << 24) -> int:
    """Return the CRC-32 of a file: made to find damage, not malice, and several times faster than a disk."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(chunk):
            value = zlib.crc32(block, value)
    return value


class Shard:
    """A shard's rows, mapped from disk.

    Args:
        path: the file.

    Raises:
        CacheError: it is no shard.

    """

    def __init__(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
                self.codec = Codec.of(file.metadata() or {})
            self.ids, self.tokens, hashes, sketches = (tensors.pop(name).numpy() for name in BOOK)
        except (SafetensorError, ConfigError, OSError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise CacheError(f"The shard {path} cannot be read ({error}); {_REMEDY}") from error
        self.marks = Marks(hashes, sketches)
        self._flat = {column: as_numpy(tensor) for column, tensor in tensors.items()}
        self._ends: dict[int, np.ndarray] = {}

    def _ends_of(self, power: int) -> np.ndarray:
        """Return where rows end; few numbers per row, however many columns, since all else stays on disk."""
        if power not in self._ends:
            self._ends[power] = np.cumsum(self.tokens**power)
        return self._ends[power]

    def block(self, column: str, row: int) -> Any:
        """Return one row's feature as a NumPy view; bfloat16 comes as 16-bit integers."""
        layout = self.codec.layouts[column]
        shape = layout.shape(int(self.tokens[row]))
        end = int(self._ends_of(layout.power)[row]) * layout.per_token
        return self._flat[column][end - math.prod(shape) : end].reshape(shape)


def as_numpy(tensor: Tensor) -> Any:
    """Return a view of a tensor's memory; NumPy has no bfloat16, so its bits come as integers.

    Example:
        >>> as_numpy(torch.ones(1, dtype=torch.bfloat16))
        array([16256], dtype=int16)

    """
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
