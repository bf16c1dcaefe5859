"""A shard: some thousand rows in one safetensors file, written whole, mapped when read."""

from __future__ import annotations

import json
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

from kd_lightning.errors import CacheError
from kd_lightning.storage.files import write_json
from kd_lightning.teachers.cache.columns import Codec
from kd_lightning.teachers.cache.layout import Layout
from kd_lightning.teachers.cache.marks import Marks

ENDING = ".safetensors"

BOOK = ("sample_id", "tokens", "hash", "sketch")
"""Tensors of a shard that are not features: one number per row."""


@dataclass(frozen=True)
class ShardInfo:
    """What must be true of a shard's file."""

    name: str
    rows: int
    bytes: int
    crc32: int

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


def write_shard(folder: Path, name: str, tensors: dict[str, Tensor], codec: Codec) -> ShardInfo:
    """Write a shard, and beside it what is known of it, each by one rename; only with both is it finished."""
    content = save(tensors, metadata=codec.notes())
    scratch = folder / f".{name}.tmp"
    with scratch.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(folder / name)
    info = ShardInfo(name, len(tensors["sample_id"]), len(content), zlib.crc32(content))
    write_json(folder / f"{name}.json", asdict(info))
    return info


def finished_shards(folder: Path) -> list[ShardInfo]:
    """Return the shards that were written whole."""
    notes = sorted(folder.glob(f"*{ENDING}.json"))
    infos = [ShardInfo(**json.loads(path.read_text())) for path in notes]
    return [info for info in infos if (folder / info.name).is_file()]


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
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise CacheError(f"The shard {path} cannot be read ({error}); {_REMEDY}") from error
        self.ids, self.tokens, hashes, sketches = (tensors.pop(name).numpy() for name in BOOK)
        self.marks = Marks(hashes, sketches)
        self._flat = {column: as_numpy(tensor) for column, tensor in tensors.items()}
        self._bounds = {column: self._bounds_of(layout) for column, layout in self.codec.layouts.items()}

    def _bounds_of(self, layout: Layout) -> list[int]:
        return np.concatenate([[0], np.cumsum(layout.sizes(self.tokens))]).tolist()

    def block(self, column: str, row: int) -> Any:
        """Return one row's feature as a NumPy view; bfloat16 comes as 16-bit integers."""
        bounds = self._bounds[column]
        shape = self.codec.layouts[column].shape(int(self.tokens[row]))
        return self._flat[column][bounds[row] : bounds[row + 1]].reshape(shape)


def as_numpy(tensor: Tensor) -> Any:
    """Return a view of a tensor's memory; NumPy has no bfloat16, so its bits come as integers.

    Example:
        >>> as_numpy(torch.ones(1, dtype=torch.bfloat16))
        array([16256], dtype=int16)

    """
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
