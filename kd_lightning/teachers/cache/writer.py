"""Rows of a cache in the making: gathered in memory, and written shard by shard."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kd_lightning.core.types import Features
from kd_lightning.teachers.cache.columns import Codec
from kd_lightning.teachers.cache.layout import spans_of
from kd_lightning.teachers.cache.row_fingerprints import Marks, Rows, marks_of
from kd_lightning.teachers.cache.row_index import Seen
from kd_lightning.teachers.cache.shard import BOOK, ENDING, Shard, finished_shards, next_number, write_shard

SHARD_BYTES = 1 << 26
SHARD_SECONDS = 30.0
"""A shard is written when it is that large, or that old: what a kill can cost at most."""


class Writer:
    """Writes what one process finds.

    Args:
        folder: the cache's.
        codec: how features are stored.
        made_from: the cache's fingerprint; in its shards, so that no other cache's are taken for them.
        rank: of the process; in its shards' names.

    """

    def __init__(self, folder: Path, codec: Codec, made_from: str, rank: int = 0) -> None:
        self.folder = folder
        self.codec = codec
        self.made_from = made_from
        self.rank = rank
        self.seen = seen_in(Shard(folder / info.name) for info in finished_shards(folder, made_from, verify=True))
        self._number = next_number(folder, rank)
        self._clear()

    def _clear(self) -> None:
        self._columns: dict[str, list[Tensor]] = {}
        self._book: list[tuple[np.ndarray, ...]] = []
        self._bytes, self._since = 0, time.monotonic()

    def add(self, rows: Rows, ask: Callable[[], Features]) -> int:
        """Take the rows of a batch that are missing, and return how many; the teacher is asked if there are any.

        Raises:
            CacheError: a row has the number of another one.

        """
        spans = spans_of(rows.mask, len(rows.ids))
        marks = marks_of(rows, spans)
        if places := self.seen.missing(rows.ids, marks):
            for column, feature in self.codec.pack(ask(), rows.mask, len(rows.ids)).items():
                blocks = self.codec.layouts[column].cut(feature.detach().cpu(), spans, places)
                self._columns.setdefault(column, []).append(torch.cat(blocks))
                self._bytes += self._columns[column][-1].nbytes
            self._note(rows, marks.at(places), spans, places)
        if self._bytes >= SHARD_BYTES or time.monotonic() - self._since >= SHARD_SECONDS:
            self.flush()
        return len(places)

    def _note(self, rows: Rows, marks: Marks, spans: list[tuple[int, int]], places: Sequence[int]) -> None:
        ids = rows.ids[places].astype(np.int64)
        tokens = np.array([spans[place][1] for place in places], dtype=np.int64)
        self._book.append((ids, tokens, *marks))
        self.seen.add(ids, marks)

    def flush(self) -> None:
        """Write what was gathered, if there is any."""
        if self._book:
            parts = zip(*self._book, strict=True)
            book = {name: torch.from_numpy(np.concatenate(part)) for name, part in zip(BOOK, parts, strict=True)}
            columns = {name: torch.cat(parts) for name, parts in self._columns.items()}
            name = f"{self.rank:03d}-{self._number:06d}{ENDING}"
            write_shard(self.folder, name, book | columns, self.codec, self.made_from)
            self._number += 1
        self._clear()


def seen_in(shards: Iterable[Shard]) -> Seen:
    """Return the rows of all shards.

    Raises:
        CacheError: two hold different rows of one number.

    """
    seen = Seen()
    for shard in shards:
        places = seen.missing(shard.ids, shard.marks)  # two processes may have written one row
        seen.add(shard.ids[places], shard.marks.at(places))
    return seen
