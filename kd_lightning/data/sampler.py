"""Which rows make which batch: pure functions of (seed, epoch, rank, number of processes), so nothing need be saved."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import distributed

from kd_lightning.core.errors import DataError

MEGA = 50  # steps sorted together: enough for tight lengths, few enough that rows share batches with others each epoch


def place() -> tuple[int, int]:
    """Return (rank, number of processes), read anew at every call: loaders are built before or after the group is.

    Example:
        >>> place()
        (0, 1)

    """
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def lengths_of(rows: Any) -> np.ndarray:
    """Return the length of each row of a dataset, (rows,); ones where it has no `lengths`: grouping changes nothing."""
    lengths = getattr(rows, "lengths", None)
    return np.ones(len(rows), np.int64) if lengths is None else np.asarray(lengths)


class Batches:
    """What both batch samplers share: an epoch, and a first batch to start from.

    Lightning calls `set_epoch` on `batch_sampler.sampler`, never on the batch sampler; so `sampler` is this object.

    Args:
        lengths: length of each row, such as its number of tokens.
        batch_size: rows per batch and process.
        group_by_length: put rows of similar length together, so that little is padding.

    """

    def __init__(self, lengths: Any, batch_size: int, group_by_length: bool = True) -> None:
        if batch_size < 1:
            raise DataError(f"A batch needs at least one row; got batch_size={batch_size}.")
        if len(lengths) < 1:
            raise DataError("There are no rows to make batches of.")
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.group_by_length = group_by_length
        self.epoch = 0
        self.start = 0

    @property
    def sampler(self) -> Batches:
        """This object: where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    @property
    def per_epoch(self) -> int:
        """Rows of an epoch."""
        return len(self.lengths)

    def __len__(self) -> int:
        raise NotImplementedError

    def plan(self) -> list[np.ndarray]:
        """Return this process's batches of row numbers for the present epoch."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[list[Any]]:
        # A generator: nothing is drawn before the first `next`, when Lightning has called `set_epoch`.
        start, self.start = self.start, 0
        for rows in self.plan()[start:]:
            yield rows.tolist()

    def _longest_first(self, rows: np.ndarray) -> np.ndarray:
        return rows[np.argsort(-self.lengths[rows], kind="stable")]


class TrainBatches(Batches):
    """Shuffled batches of similar length, the same number of them on every process.

    Rows are shuffled, cut into stretches of 50 steps, sorted by length within a stretch, cut into steps, and the steps
    are shuffled. A step's rows are dealt out in turn, so the processes' batches of one step are about equally long.
    Every row comes once per epoch; at most (processes - 1) rows come twice to make the shares equal.

    Args:
        lengths: length of each row, such as its number of tokens.
        batch_size: rows per batch and process.
        seed: with the epoch, decides the order.
        group_by_length: False for plain shuffling.
        shuffle: False repeats the first epoch's order, as overfitting a few batches needs.
        with_view: give (row, view) for each row, for a dataset whose rows change; the view is the epoch.
        views: rows that change come round: the view is epoch mod views.

    Raises:
        DataError: if there are no rows, or the batch size is below one.

    Example:
        >>> batches = TrainBatches([3, 9, 4, 8, 5], batch_size=2, seed=0)
        >>> len(batches), sorted(row for rows in batches for row in rows)
        (3, [0, 1, 2, 3, 4])

    """

    def __init__(
        self,
        lengths: Any,
        batch_size: int,
        seed: int = 0,
        group_by_length: bool = True,
        shuffle: bool = True,
        with_view: bool = False,
        views: int | None = None,
    ) -> None:
        super().__init__(lengths, batch_size, group_by_length)
        self.seed = seed
        self.shuffle = shuffle
        self.with_view = with_view
        self.views = views

    def __iter__(self) -> Iterator[list[Any]]:
        for rows in super().__iter__():
            # The view goes with the row: persistent workers hold copies of the dataset, which get no new epoch.
            yield [(row, self.view) for row in rows] if self.with_view else rows

    @property
    def view(self) -> int:
        """The view of the present epoch, on which all random changes of its rows depend."""
        return self._drawn_epoch if self.views is None else self._drawn_epoch % self.views

    @property
    def _drawn_epoch(self) -> int:
        return self.epoch if self.shuffle else 0

    def __len__(self) -> int:
        return -(-self.per_epoch // (self.batch_size * place()[1]))

    def present(self, epoch: int) -> np.ndarray:
        """Return the rows of an epoch, `per_epoch` of them, in any order."""
        return np.arange(len(self.lengths))

    def plan(self) -> list[np.ndarray]:
        """Return this process's batches of row numbers for the present epoch."""
        rank, world = place()
        return [rows[rank::world] for rows in self._steps(world)]

    def visited(self, epochs: int, limit: int | float, processes: int = 1) -> np.ndarray:
        """Return which rows so many epochs train on, on all processes together: their numbers, or row · views + view.

        Args:
            epochs: number of epochs.
            limit: as `limit_train_batches`.
            processes: number of processes.

        """
        views = self.views if self.with_view and self.views else 1
        seen = np.zeros((len(self.lengths), views), dtype=bool)
        for epoch in range(epochs):
            self.set_epoch(epoch)
            steps = self._steps(processes)
            for rows in steps[: int(limit * len(steps)) if isinstance(limit, float) else limit]:
                seen[rows, self.view % views] = True
        self.set_epoch(0)
        return np.flatnonzero(seen)

    def _steps(self, world: int) -> list[np.ndarray]:
        """Return each step's rows, on all processes together, in the order of the present epoch."""
        random = np.random.default_rng([self.seed, self._drawn_epoch])
        order = random.permutation(self.present(self._drawn_epoch))
        order = np.resize(order, len(order) + -len(order) % world)  # repeats the first rows
        step = self.batch_size * world
        if self.group_by_length:
            order = np.concatenate([self._longest_first(stretch) for stretch in _cut(order, MEGA * step)])
        steps = _cut(order, step)
        return [steps[i] for i in random.permutation(len(steps))]


class EvalBatches(Batches):
    """Batches without shuffling that hold every row exactly once over all processes, so metrics are exact.

    Every process gets the same number of batches, because a forward pass under DDP may be a collective (buffers are
    broadcast) and an odd one out would hang. No row is repeated: where rows do not divide, batches differ in size by
    one, and where a process would be left short, a batch may be one row above `batch_size`.

    Args:
        lengths: length of each row, such as its number of tokens.
        batch_size: rows per batch and process.
        group_by_length: False keeps the rows in order.

    Raises:
        DataError: if there are fewer rows than processes.

    Example:
        >>> [rows for rows in EvalBatches([3, 9, 4, 8, 5], batch_size=2)]
        [[1, 3], [4, 2], [0]]

    """

    def __len__(self) -> int:
        rows, world = len(self.lengths), place()[1]
        if rows < world:
            raise DataError(f"{rows} row(s) cannot be shared by {world} processes; use at most {rows}.")
        return min(-(-rows // (world * self.batch_size)), rows // world)

    def plan(self) -> list[np.ndarray]:
        """Return this process's batches of row numbers."""
        rank, world = place()
        order = np.arange(len(self.lengths))
        if self.group_by_length:
            order = self._longest_first(order)
        return np.array_split(order[rank::world], len(self))


def _cut(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]
