"""Labelled rows and rows without labels in one training set: the teacher labels the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from kd_lightning.core.errors import DataError
from kd_lightning.data.dual_tokenized import DualTokenizedRows
from kd_lightning.data.sampler import TrainBatches
from kd_lightning.data.tokens import TokenRows

STREAM = 0x0B5  # keeps these draws apart from those of orders and augmentations


class MixedRows(Dataset[dict[str, Any]]):
    """Labelled rows, and after them rows without labels, numbered on: `sample_id` is unique over both.

    Args:
        labelled: rows with labels.
        unlabelled: rows whose labels no hard-label loss counts (−100).

    Example:
        >>> def rows(ids, label):
        ...     return TokenRows({"input_ids": np.array(ids)}, np.arange(len(ids) + 1), {"labels": [label] * len(ids)})
        >>> mixed = MixedRows(rows([5, 6], 1), rows([7], -100))
        >>> len(mixed), mixed[2]["sample_id"], mixed[2]["labels"], mixed.lengths.tolist()
        (3, 2, -100, [1, 1, 1])

    """

    def __init__(self, labelled: TokenRows | DualTokenizedRows, unlabelled: TokenRows | DualTokenizedRows) -> None:
        self.labelled = labelled
        self.unlabelled = unlabelled

    def __len__(self) -> int:
        return len(self.labelled) + len(self.unlabelled)

    def __getitem__(self, row: int) -> dict[str, Any]:
        first = len(self.labelled)
        found = self.labelled[row] if row < first else self.unlabelled[row - first]
        return found | {"sample_id": int(row)}

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each row."""
        return np.concatenate([self.labelled.lengths, self.unlabelled.lengths])

    @property
    def fields(self) -> dict[str, np.ndarray]:
        """The token fields of the labelled rows; the others have the same."""
        return self.labelled.fields if isinstance(self.labelled, TokenRows) else {}


class MixedBatches(TrainBatches):
    """Batches of all labelled rows and of some of the others, shuffled together.

    Which of the others an epoch has is a function of (seed, epoch): they go round, so all come once before any comes
    again, each time in another order.

    Args:
        lengths: number of tokens of each row, of the labelled ones first.
        batch_size: rows per batch and process.
        labelled: how many rows have labels.
        ratio: rows without labels for each labelled one, in every epoch; None for all of them once.
        options: those of `TrainBatches`.

    Raises:
        DataError: a ratio that takes none of them, and what `TrainBatches` refuses.

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


def stacked(parts: Sequence[TokenRows | DualTokenizedRows]) -> TokenRows | DualTokenizedRows:
    """Return rows end to end, without their notes.

    Example:
        >>> part = TokenRows({"input_ids": np.array([5, 6])}, np.array([0, 2]), {"labels": np.array([1])})
        >>> rows = stacked([part, part])
        >>> rows.lengths.tolist(), rows[1]["input_ids"].tolist()
        ([2, 2], [5, 6])

    """
    paired = [part for part in parts if isinstance(part, DualTokenizedRows)]
    if paired:
        return DualTokenizedRows(
            *(_stacked([getattr(part, role) for part in paired]) for role in ("student", "teacher"))
        )
    return _stacked([part for part in parts if isinstance(part, TokenRows)])


def _stacked(parts: Sequence[TokenRows]) -> TokenRows:
    fields = {name: np.concatenate([part.fields[name] for part in parts]) for name in parts[0].fields}
    values = {name: np.concatenate([part.values[name] for part in parts]) for name in parts[0].values}
    lengths = np.concatenate([part.lengths for part in parts])
    return TokenRows(fields, np.concatenate([[0], np.cumsum(lengths)]), values)
