"""A loader that counts the batches it has returned, so that a killed run resumes in mid-epoch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from torch.utils.data import DataLoader, Dataset

from kd_lightning.core.errors import DataError
from kd_lightning.data.sampler import Batches

Collate: TypeAlias = Callable[[list[Any]], dict[str, Any]]
"""What makes a batch of a list of rows."""


class Loader:
    """Batches of a dataset in a sampler's order, resumable in mid-epoch.

    It counts the batches it returned, so workers may run ahead. The count is the same on all processes, so one
    checkpoint serves them all; order is a function of the epoch, which the Trainer remembers.

    It holds a `DataLoader` and is none: Lightning rebuilds a `DataLoader` with a sampler of its own (under DDP,
    and in every predict pass), and leaves other iterables alone.

    Args:
        dataset: rows by number.
        batches: which rows make which batch.
        collate: makes a batch of a list of rows.
        options: more arguments of `torch.utils.data.DataLoader`, such as `num_workers` and `pin_memory`.

    Example:
        >>> from kd_lightning.data.sampler import EvalBatches
        >>> loader = Loader([10, 11, 12], EvalBatches([1, 1, 1], batch_size=1), collate=list)
        >>> first = next(iter(loader))
        >>> resumed = Loader([10, 11, 12], EvalBatches([1, 1, 1], batch_size=1), collate=list)
        >>> resumed.load_state_dict(loader.state_dict())
        >>> list(resumed)
        [[11], [12]]

    """

    def __init__(
        self, dataset: Dataset[Any] | list[Any], batches: Batches, collate: Callable[[list[Any]], Any], **options: Any
    ) -> None:
        self.dataset = dataset
        self.batch_sampler = batches
        self.loader = DataLoader(dataset, batch_sampler=batches, collate_fn=collate, **options)  # type: ignore[arg-type]
        self._seen = 0
        self._resume: dict[str, int] = {}
        if self.loader.num_workers:
            # Rows are tokenised already. Set before workers fork, or the tokenizers package warns in each of them.
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    @property
    def batch_size(self) -> int:
        """Rows per batch and process."""
        return self.batch_sampler.batch_size

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Any]:
        self._seen = self.batch_sampler.start = self._first()
        for batch in self.loader:
            self._seen += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the position: the epoch's number, batches returned, batches in all."""
        return {"epoch": self.batch_sampler.epoch, "seen": self._seen, "of": len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next epoch's iteration at the position of `state`.

        Raises:
            DataError: if the epoch has another number of batches now, so that the position means nothing.

        """
        if state["of"] != len(self):
            raise DataError(
                f"The checkpoint stands at batch {state['seen']} of {state['of']}, but an epoch has {len(self)} batches"
                " now; resume with the same data, batch size and number of processes."
            )
        self._resume = state
        self.batch_sampler.set_epoch(state["epoch"])

    def _first(self) -> int:
        """Return the first batch to return: not zero only in the epoch that was interrupted, and once."""
        state, self._resume = self._resume, {}
        same_epoch = state.get("epoch") == self.batch_sampler.epoch
        return state["seen"] % len(self) if same_epoch else 0


def of_split(collate: Collate, split: str) -> Collate:
    """Return what makes batches of a split; those of `validation` get no field `split`, so that all are tensors."""
    return collate if split == "validation" else OfSplit(collate, split)


class OfSplit:
    """Makes batches with the name of their split in the field `split`.

    Args:
        collate: makes the batches.
        split: its name.

    """

    def __init__(self, collate: Collate, split: str) -> None:
        self.collate = collate
        self.split = split

    def __call__(self, rows: list[Any]) -> dict[str, Any]:
        """Return the batch of `rows`."""
        return {**self.collate(rows), "split": self.split}
