"""A loader that knows how many batches it has handed out, so a killed run goes on where it stood."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from kd_lightning.core.errors import DataError
from kd_lightning.data.sampler import Batches


class Loader:
    """Batches of a dataset in a sampler's order, resumable in mid-epoch.

    It counts what it handed out, so workers may run ahead. The count is the same on all processes, so one checkpoint
    serves them all; order is a function of the epoch, which the Trainer remembers.

    It holds a `DataLoader` and is none: Lightning takes a `DataLoader` apart to put in a sampler of its own (under DDP,
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
            # Rows are tokenised already. Said before workers fork, or the tokenizers package warns in each of them.
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
        """Return where the epoch stands: its number, batches handed out, batches in all."""
        return {"epoch": self.batch_sampler.epoch, "seen": self._seen, "of": len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next epoch's iteration where `state` stood.

        Raises:
            DataError: the epoch has another number of batches now, so the place is lost.

        """
        if state["of"] != len(self):
            raise DataError(
                f"The checkpoint stands at batch {state['seen']} of {state['of']}, but an epoch has {len(self)} batches"
                " now; resume with the same data, batch size and number of processes."
            )
        self._resume = state
        self.batch_sampler.set_epoch(state["epoch"])

    def _first(self) -> int:
        """Return the first batch to hand out: not zero only in the epoch that was cut short, and once."""
        state, self._resume = self._resume, {}
        same_epoch = state.get("epoch") == self.batch_sampler.epoch
        return state["seen"] % len(self) if same_epoch else 0
