"""Which task, and which of its rows, make which batch: functions of (seed, epoch, rank, processes) as for one task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from kd_lightning.data.sampler import Batches


class TaskBatches(Batches):
    """Batches of several tasks' training rows, numbered one task after the other.

    Args:
        tasks: each task's own batches.
        tau: exponent of the sizes, in rows per epoch.
        seed: with the epoch, decides the order of the tasks.
        steps: batches per epoch; None for the sum over the tasks.
        shuffle: False repeats the first epoch's batches, as overfitting a few needs.

    Example:
        >>> from kd_lightning.data import TrainBatches
        >>> batches = TaskBatches([TrainBatches([1] * 4, 2), TrainBatches([1] * 2, 2)], tau=1.0, seed=1)
        >>> len(batches), sorted({min(rows) // 4 for rows in batches})
        (3, [0, 1])

    """

    def __init__(
        self,
        tasks: Sequence[Batches],
        tau: float = 1.0,
        seed: int = 0,
        steps: int | None = None,
        shuffle: bool = True,
    ) -> None:
        super().__init__(np.concatenate([task.lengths for task in tasks]), tasks[0].batch_size)
        self.tasks = tasks
        self.seed = seed
        self.steps = steps
        self.shuffle = shuffle
        self.with_view = any(getattr(task, "with_view", False) for task in tasks)
        sizes = np.array([task.per_epoch for task in tasks], dtype=np.float64)
        self.shares = (sizes / sizes.max()) ** tau
        self.shares /= self.shares.sum()
        self.first = np.cumsum([0, *(len(task.lengths) for task in tasks[:-1])])

    def __iter__(self) -> Iterator[list[Any]]:
        start, self.start = self.start, 0
        for around, rows in self._drawn()[start:]:
            yield [(row, around) for row in rows.tolist()] if self.with_view else rows.tolist()

    def __len__(self) -> int:
        return self.steps or sum(len(task) for task in self.tasks)

    def plan(self) -> list[np.ndarray]:
        """Return this process's batches of row numbers for the present epoch."""
        return [rows for _, rows in self._drawn()]

    def _drawn(self) -> list[tuple[int, np.ndarray]]:
        """Return the batches, each with how often its task has gone round: augmentation differs from round to round."""
        present, drawn = self.epoch if self.shuffle else 0, np.zeros(len(self.tasks), dtype=np.int64)
        for epoch in range(present):
            drawn += np.bincount(self.order(epoch), minlength=len(self.tasks))
        streams = [self._stream(number, int(seen)) for number, seen in enumerate(drawn)]
        return [next(streams[task]) for task in self.order(present)]

    def order(self, epoch: int) -> np.ndarray:
        """Return the task number of each of an epoch's batches: the same on all processes."""
        random = np.random.default_rng([self.seed, epoch, 1])  # not the tasks' own [seed, epoch]
        return random.choice(len(self.tasks), size=len(self), p=self.shares)

    def _stream(self, number: int, seen: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield a task's batches from where the epochs before left it, round after round."""
        task = self.tasks[number]
        around, start = divmod(seen, len(task))
        while True:
            task.set_epoch(around)
            yield from ((around, rows + self.first[number]) for rows in task.plan()[start:])
            around, start = around + 1, 0


class EachTask(Batches):
    """Every row of every task once, the tasks' batches in turn, so that the first few are of all tasks.

    Args:
        tasks: each task's own batches.

    """

    def __init__(self, tasks: Sequence[Batches]) -> None:
        super().__init__(np.concatenate([task.lengths for task in tasks]), tasks[0].batch_size)
        self.tasks = tasks

    def __len__(self) -> int:
        return sum(len(task) for task in self.tasks)

    def plan(self) -> list[np.ndarray]:
        """Return this process's batches of row numbers."""
        first = np.cumsum([0, *(len(task.lengths) for task in self.tasks)])
        own = [[rows + start for rows in task.plan()] for task, start in zip(self.tasks, first, strict=False)]
        return [rows for turn in zip_longest(*own) for rows in turn if rows is not None]
