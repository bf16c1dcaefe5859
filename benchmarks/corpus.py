"""SST-2 in the two ways people batch it: rows of similar length together, and all rows padded to one length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import kd_lightning as kd
from benchmarks.models import Batch, for_models
from kd_lightning.data.loader import Loader
from kd_lightning.data.sampler import Batches
from kd_lightning.data.text.padding import Padding


class Corpus:
    """SST-2's training rows, tokenised once, in the batches that contenders ask for.

    Args:
        root: holds `sst2/{train,validation}.parquet`.
        tokenizer: the teacher's, which is the student's too.
        limit: use only this many training rows.
        batch_size: rows per batch.
        length: tokens of a row at most, and of every row where all are padded.
        folder: where tokenised rows are kept.

    """

    def __init__(
        self, root: Path, tokenizer: Any, limit: int | None, batch_size: int, length: int, folder: Path
    ) -> None:
        self.length = length
        self.data = kd.data.TextClassification(
            "sst2",
            "sentence",
            root=root,
            tokenizer=tokenizer,
            limit=limit,
            batch_size=batch_size,
            max_length=length,
            cache_dir=folder,
        )
        self.data.setup("fit")
        self.rows = self.data.rows("train")

    def plan(self, steps: int | None = None) -> list[list[int]]:
        """Return the row numbers of an epoch's batches of similar length, or of some, evenly spread over lengths."""
        batches = [rows.tolist() for rows in self.data.train_batches().plan()]
        if steps is None or steps >= len(batches):
            return batches
        by_length = sorted(range(len(batches)), key=lambda i: -self.tokens(batches[i]))
        kept = {by_length[i] for i in np.linspace(0, len(batches) - 1, steps).round().astype(int)}
        return [batch for i, batch in enumerate(batches) if i in kept]

    def tokens(self, rows: Sequence[int]) -> int:
        """Return how many tokens a batch of these rows has, padding included."""
        return int(self.rows.lengths[list(rows)].max()) * len(rows)

    def padding(self) -> dict[str, float]:
        """Return what share of an epoch's tokens is padding in our batches, in shuffled ones, and at one length."""
        lengths, size = self.rows.lengths, self.data.batch_size
        shuffled = kd.data.TrainBatches(lengths, size, group_by_length=False).plan()
        made = {"our batches": self.plan(), "shuffled ones": shuffled}
        shares = {name: 1 - lengths.sum() / sum(map(self.tokens, plan)) for name, plan in made.items()}
        return shares | {f"{self.length} each": 1 - lengths.mean() / self.length}

    def grouped(self, plan: Sequence[list[int]], bare: bool = False) -> Loader:
        """Return a loader of planned batches; bare ones have no `sample_id`."""
        pad = self.data.collate
        collate = (lambda rows: for_models(pad(rows))) if bare else pad
        return self.data.loader(self.rows, Planned(self.rows.lengths, plan), collate)

    def padded_rows(self) -> Padded:
        """Return all rows padded to one length, as most scripts make them beforehand."""
        return Padded(self.rows, Padding.of(self.data.tokenizer, multiple_of=self.length))

    def padded(self, rows: Padded, steps: int) -> DataLoader[Any]:
        """Return a loader of shuffled batches of padded rows, for some steps."""
        shuffled = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
        size = self.data.batch_size
        return DataLoader(rows, batch_size=size, sampler=shuffled[: steps * size].tolist())

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return len(self.data.train_batches())

    def validation(self) -> list[Batch]:
        """Return the validation batches, without `sample_id`."""
        return [for_models(batch) for batch in self.data.val_dataloader()]

    def epochs(self) -> EpochLoader:
        """Return a loader whose order is that of our own loader, epoch after epoch."""
        return EpochLoader(self.data.train_dataloader())


class Planned(Batches):
    """Batches that were chosen before.

    Args:
        lengths: number of tokens of each row.
        batches: row numbers of each batch.

    """

    def __init__(self, lengths: Any, batches: Sequence[list[int]]) -> None:
        super().__init__(lengths, max(map(len, batches)))
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def plan(self) -> list[np.ndarray]:
        """Return them."""
        return [np.asarray(batch) for batch in self.batches]


class Padded(Dataset[Batch]):
    """Rows in one tensor per field, padded to one length when the data set is made."""

    def __init__(self, rows: Any, collate: Any) -> None:
        self.columns = for_models(collate([rows[i] for i in range(len(rows))]))

    def __len__(self) -> int:
        return len(self.columns["labels"])

    def __getitem__(self, row: int) -> Batch:
        return {name: column[row] for name, column in self.columns.items()}


class EpochLoader:
    """A loader for loops that tell it no epoch: each pass over it is the next one. Batches have no `sample_id`."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        self.loader.batch_sampler.set_epoch(self.epoch)
        self.epoch += 1
        yield from map(for_models, self.loader)
