"""Rows of a cache in the making: gathered in memory, and written shard by shard."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kd_lightning.teachers.cache.columns import Codec
from kd_lightning.teachers.cache.layout import spans_of
from kd_lightning.teachers.cache.marks import Marks, Rows, marks_of
from kd_lightning.teachers.cache.shard import ENDING, Shard, finished_shards, write_shard
from kd_lightning.types import Features

SHARD_BYTES = 1 << 26
SHARD_SECONDS = 30.0
"""A shard is written when it is that large, or that old: what a kill can cost at most."""


class Writer:
    """Writes what one process finds.

    Args:
        folder: the cache's.
        codec: how features are stored.
        rank: of the process; in its shards' names.

    """

    def __init__(self, folder: Path, codec: Codec, rank: int = 0) -> None:
        self.folder = folder
        self.codec = codec
        self.rank = rank
        found = finished_shards(folder)
        self.known = {int(i) for info in found for i in Shard(folder / info.name).ids}
        self._number = sum(info.name.startswith(f"{rank:03d}-") for info in found)
        self._clear()

    def _clear(self) -> None:
        self._columns: dict[str, list[Tensor]] = {}
        self._book: list[tuple[np.ndarray, ...]] = []
        self._bytes, self._since = 0, time.monotonic()

    def missing(self, ids: np.ndarray) -> list[int]:
        """Return the places in a batch of rows that are not stored yet, each row once."""
        fresh: dict[int, int] = {}
        for place, row in enumerate(ids.tolist()):
            if row not in self.known:
                fresh.setdefault(row, place)
        return list(fresh.values())

    def add(self, rows: Rows, features: Features) -> None:
        """Take the rows of a batch that are missing."""
        spans = spans_of(rows.mask, len(rows.ids))
        places = self.missing(rows.ids)
        for column, feature in self.codec.pack(features, rows.mask).items():
            whole = feature.detach().cpu()
            blocks = self.codec.layouts[column].cut(whole, spans, places)
            self._columns.setdefault(column, []).append(torch.cat(blocks) if blocks else whole.new_zeros(0))
            self._bytes += self._columns[column][-1].nbytes
        self._note(rows, marks_of(rows, spans), spans, places)
        if self._bytes >= SHARD_BYTES or time.monotonic() - self._since >= SHARD_SECONDS:
            self.flush()

    def _note(self, rows: Rows, marks: Marks, spans: list[tuple[int, int]], places: Sequence[int]) -> None:
        ids = rows.ids[places].astype(np.int64)
        tokens = np.array([spans[place][1] for place in places], dtype=np.int64)
        self._book.append((ids, tokens, marks.hashes[places], marks.sketches[places]))
        self.known.update(ids.tolist())

    def flush(self) -> None:
        """Write what was gathered, if there is any."""
        if self._book:
            names = ("sample_id", "tokens", "hash", "sketch")
            book = {
                name: torch.from_numpy(np.concatenate(part))
                for name, part in zip(names, zip(*self._book, strict=True), strict=True)
            }
            columns = {name: torch.cat(parts) for name, parts in self._columns.items()}
            write_shard(self.folder, f"{self.rank:03d}-{self._number:06d}{ENDING}", book | columns, self.codec)
            self._number += 1
        self._clear()
