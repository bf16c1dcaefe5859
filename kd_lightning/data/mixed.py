"""Labelled rows and rows without labels in one training set: the teacher labels the others."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import Dataset

from kd_lightning.core.errors import DataError
from kd_lightning.data.sampler import TrainBatches, lengths_of

STREAM = 0x0B5  # keeps these draws apart from those of orders and augmentations


class MixedRows(Dataset[dict[str, Any]]):
    """Labelled rows, and after them rows without labels, numbered on: `sample_id` is unique over both.

    Args:
        labelled: rows with labels.
        unlabelled: rows whose labels no hard-label loss counts (−100).

    Example:
        >>> mixed = MixedRows([{"x": 5.0, "labels": 1}, {"x": 6.0, "labels": 0}], [{"x": 7.0, "labels": -100}])
        >>> len(mixed), mixed[2]
        (3, {'x': 7.0, 'labels': -100, 'sample_id': 2})

    """

    def __init__(self, labelled: Any, unlabelled: Any) -> None:
        self.labelled = labelled
        self.unlabelled = unlabelled

    def __len__(self) -> int:
        return len(self.labelled) + len(self.unlabelled)

    def __getitem__(self, row: int) -> dict[str, Any]:
        first = len(self.labelled)
        found = self.labelled[row] if row < first else self.unlabelled[row - first]
        return {**found, "sample_id": int(row)}

    @property
    def lengths(self) -> np.ndarray:
        """Length of each row."""
        return np.concatenate([lengths_of(self.labelled), lengths_of(self.unlabelled)])


class MixedBatches(TrainBatches):
    """Batches of all labelled rows and of some of the others, shuffled together.

    Which of the others an epoch has is a function of (seed, epoch): all are used once before any is used again, each
    time in another order.

    Args:
        lengths: length of each row, of the labelled ones first.
        batch_size: rows per batch and process.
        labelled: how many rows have labels.
        ratio: rows without labels for each labelled one, in every epoch; None for all of them once.
        options: those of `TrainBatches`.

    Raises:
        DataError: if the ratio takes none of them, or as `TrainBatches`.

    Example:
        >>> batches = MixedBatches([1] * 10, batch_size=3, labelled=4, ratio=0.5)
        >>> chosen = []
        >>> for epoch in range(3):
        ...     batches.set_epoch(epoch)
        ...     chosen += [row for rows in batches for row in rows if row >= 4]
        >>> sorted(chosen)
        [4, 5, 6, 7, 8, 9]

    """

    def __init__(
        self, lengths: Any, batch_size: int, labelled: int, ratio: float | None = None, **options: Any
    ) -> None:
        super().__init__(lengths, batch_size, **options)
        self.labelled = labelled
        self.others = len(self.lengths) - labelled
        self.taken = self.others if ratio is None else round(ratio * labelled)
        if self.taken < 1:
            raise DataError(
                f"unlabelled_ratio={ratio} takes none of {self.others} unlabelled rows beside {labelled} labelled ones;"
                " raise it, or leave `unlabelled` out."
            )

    @property
    def per_epoch(self) -> int:
        """Rows of an epoch."""
        return self.labelled + self.taken

    def present(self, epoch: int) -> np.ndarray:
        """Return the rows of an epoch: all labelled ones, and the next few of the others."""
        places = np.arange(epoch * self.taken, (epoch + 1) * self.taken)
        rounds = places // self.others
        others = [self._order(turn)[places[rounds == turn] % self.others] for turn in np.unique(rounds)]
        return np.concatenate([np.arange(self.labelled), *(rows + self.labelled for rows in others)])

    def _order(self, turn: int) -> np.ndarray:
        return np.random.default_rng([STREAM, self.seed, int(turn)]).permutation(self.others)
