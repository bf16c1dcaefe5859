"""Rows, batches and caches that the tests of the teacher cache share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import kd_lightning as kd
from kd_lightning.data import Loader, Padding, TokenRows, TrainBatches

from ...toys import VOCABULARY, trainer

Batch = dict[str, Any]


def token_rows(count: int = 12, seed: int = 0, shortest: int = 2, longest: int = 8) -> TokenRows:
    """Return rows of various lengths, with labels of 3 classes."""
    random = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(random.integers(shortest, longest + 1, count))])
    ids = random.integers(1, VOCABULARY, offsets[-1])
    return TokenRows({"input_ids": ids}, offsets, {"labels": random.integers(0, 3, count)})


def in_batches(rows: TokenRows, size: int, order: Sequence[int] | None = None, **padding: Any) -> list[Batch]:
    """Return all rows in batches."""
    pad, places = Padding({"input_ids": 0}, **padding), list(order or range(len(rows)))
    return [pad([rows[i] for i in places[start : start + size]]) for start in range(0, len(places), size)]


def shuffled(rows: TokenRows, workers: int = 0, size: int = 4) -> Loader:
    """Return a shuffled, grouped loader."""
    batches = TrainBatches(rows.lengths, batch_size=size)
    return Loader(rows, batches, Padding({"input_ids": 0}), num_workers=workers)


def build(
    teacher: Any, batches: Iterable[Any], folder: Path, addresses: Sequence[str], dtype: str = "fp32", **more: Any
) -> kd.TeacherCache:
    """Build a cache on one quiet CPU trainer."""
    made = more.pop("trainer", None) or trainer(folder.parent)
    return kd.TeacherCache.build(teacher, batches, folder, addresses, dtype=dtype, trainer=made, **more)


def cached(folder: Path, addresses: Sequence[str]) -> kd.CachedTeacher:
    """Return a cached teacher of these addresses."""
    teacher = kd.CachedTeacher(folder)
    teacher.ask(addresses)
    return teacher


def live(model: nn.Module, addresses: Sequence[str], **options: Any) -> kd.LiveTeacher:
    """Return a live teacher of these addresses."""
    teacher = kd.LiveTeacher(model, **options)
    teacher.ask(addresses)
    return teacher


def real(feature: Tensor, mask: Tensor, axes: Sequence[int]) -> list[Tensor]:
    """Return each row's entries of a feature (B, …) at real tokens, along the given axes of a row."""
    found = []
    for row, own in zip(feature, mask.bool(), strict=True):
        for axis in axes:
            row = row.index_select(axis, own.nonzero().flatten())
        found.append(row)
    return found


def compare(one: Tensor, other: Tensor, mask: Tensor, axes: Sequence[int], **tolerance: float) -> None:
    """Compare two features where tokens are real."""
    for mine, theirs in zip(real(one, mask, axes), real(other, mask, axes), strict=True):
        torch.testing.assert_close(mine.float(), theirs.float(), **tolerance)


class Counting(nn.Module):
    """Counts its calls and the rows of each."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.rows: list[int] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        self.rows.append(len(input_ids))
        return self.inner(input_ids=input_ids, attention_mask=attention_mask)
