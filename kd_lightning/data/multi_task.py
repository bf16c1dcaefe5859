"""Several data sets in turn: every training batch is of one task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from kd_lightning.core.errors import DataError
from kd_lightning.core.hashing import digest
from kd_lightning.core.types import NAME
from kd_lightning.data.base import SELECTION, DataModule
from kd_lightning.data.loader import Collate, Loader, of_split
from kd_lightning.data.rows import EpochRows, RowDataModule
from kd_lightning.data.sampler import Batches
from kd_lightning.data.task_sampler import EachTask, TaskBatches


class MultiTask(DataModule):
    """Batches of several data sets, each of one task and with its name in the field `task`.

    For every training batch a task is drawn with probability ∝ size^τ. All processes draw the same task in one step,
    and the draws are a function of (seed, epoch), so nothing need be saved to resume. All of a task's
    own rows are used once before any is used again, across epochs. Validation goes through every task once.

    Where a task holds training rows out to choose on (`selection`), the others are chosen on their validation rows; the
    `validation` split has of each task the one that it reports, see `DataModule.report_split`.

    Args:
        tasks: data modules by task (letters, digits, underscores), each with its own batch size and labels.
        tau: exponent of the sizes: 1 draws all rows with equal probability, 0 all tasks.
        seed: decides the order of the tasks.
        steps: batches per epoch and process; None for as many as all tasks have.

    Raises:
        DataError: if there are no tasks, or a name, `tau` or `steps` is not as described.

    Example:
        >>> from kd_lightning.data import SyntheticSentiment
        >>> sizes = {"large": 256, "small": 64}
        >>> data = MultiTask({name: SyntheticSentiment(size, 20) for name, size in sizes.items()}, tau=0.5)
        >>> data.setup()
        >>> {batch["task"] for batch in data.train_dataloader()} <= {"large", "small"}
        True

    """

    def __init__(
        self, tasks: Mapping[str, RowDataModule], tau: float = 1.0, seed: int = 0, steps: int | None = None
    ) -> None:
        super().__init__()
        _check(tasks, tau, steps)
        self.tasks = dict(tasks)
        self.tau = tau
        self.seed = seed
        self.steps = steps

    @property
    def fingerprint(self) -> str:
        """Hash of all tasks' data; order and τ do not count."""
        return digest([(name, data.fingerprint) for name, data in self.tasks.items()])

    @property
    def sizes(self) -> dict[str, int]:
        """Rows per task and split; empty before `setup`."""
        return {f"{name} {split}": n for name, data in self.tasks.items() for split, n in data.sizes.items()}

    @property
    def available_splits(self) -> list[str]:
        """The splits that any of the tasks has; `validation` is what each of them reports."""
        found = dict.fromkeys(split for data in self.tasks.values() for split in data.available_splits)
        reported = any(data.report_split in data.available_splits for data in self.tasks.values())
        return list(found | ({"validation": None} if reported else {}))

    def setup(self, stage: str | None = None) -> None:
        """Tokenise all splits of all tasks, or find them tokenised."""
        for data in self.tasks.values():
            data.setup(stage)

    def train_dataloader(self) -> Loader:
        """Return shuffled batches of tasks in turn, resumable in mid-epoch."""
        rows = {name: data.train_dataset() for name, data in self.tasks.items()}
        batches = [data.train_batches() for data in self.tasks.values()]
        overfit = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        order = TaskBatches(batches, self.tau, self.seed, self.steps, shuffle=not overfit)
        return self._loader(rows, order, {name: data.collate for name, data in self.tasks.items()})

    def val_dataloader(self) -> Loader | list[Any]:
        """Return each row of each task once that checkpoints are chosen on."""
        return self.eval_loader(self.selection_split)

    def test_dataloader(self) -> Loader | list[Any]:
        """Return each test row of each task once, of the tasks that have any."""
        return self.eval_loader("test")

    def eval_loader(self, split: str) -> Loader | list[Any]:
        """Return each row of a split of each task once, of the tasks that have it."""
        if split not in self.available_splits:
            return []
        owns = {name: _own(data, split) for name, data in self.tasks.items()}
        having = {name: own for name, own in owns.items() if own in self.tasks[name].available_splits}
        batches = [self.tasks[name].eval_batches(own) for name, own in having.items()]
        rows = {name: self.tasks[name].eval_dataset(own) for name, own in having.items()}
        collates = {name: of_split(self.tasks[name].collate, own) for name, own in having.items()}
        return self._loader(rows, EachTask(batches), collates)

    def _loader(self, rows: Mapping[str, Any], batches: Batches, collates: Mapping[str, Collate]) -> Loader:
        first = self.tasks[next(iter(rows))]
        return first.loader(TaskRows(rows), batches, _CollateByTask(collates))


class TaskRows(Dataset[tuple[str, Any]]):
    """Rows of several tasks, numbered one task after the other, each with the name of its task.

    Args:
        rows: by task; those that change are indexed by (row, view); the view given here is the round of a task's rows.

    """

    def __init__(self, rows: Mapping[str, Any]) -> None:
        self.rows = dict(rows)
        self.first = np.cumsum([0, *(len(own) for own in rows.values())])

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[str, Any]:
        row, view = key if isinstance(key, tuple) else (key, 0)
        number = int(np.searchsorted(self.first, row, side="right")) - 1
        name = list(self.rows)[number]
        own, inner = self.rows[name], row - int(self.first[number])
        return name, own[inner, view % (own.views or view + 1)] if isinstance(own, EpochRows) else own[inner]


class _CollateByTask:
    """Makes a batch of rows of one task, by that task's own rule."""

    def __init__(self, collates: Mapping[str, Collate]) -> None:
        self.collates = dict(collates)

    def __call__(self, rows: list[tuple[str, Any]]) -> dict[str, Any]:
        name = rows[0][0]
        return {**self.collates[name]([row for _, row in rows]), "task": name}


def _own(data: DataModule, split: str) -> str:
    """Return which of a task's splits serves as a split of all tasks."""
    return {SELECTION: data.selection_split, "validation": data.report_split}.get(split, split)


def _check(tasks: Mapping[str, RowDataModule], tau: float, steps: int | None) -> None:
    if not isinstance(tasks, Mapping) or not tasks:
        raise DataError("Several tasks need data modules by name, such as {'sst2': TextClassification(…)}.")
    for name, data in tasks.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise DataError(f"Expected a task's name to be letters, digits and underscores but got {name!r}.")
        if not isinstance(data, RowDataModule):
            raise DataError(f"Expected the data of task '{name}' to be a data module but got {type(data).__name__}.")
    if not isinstance(tau, int | float) or not 0 <= tau < float("inf"):
        raise DataError(f"tau is the exponent of the tasks' sizes, from 0; got {tau!r}.")
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise DataError(f"An epoch needs at least one step; got steps={steps}.")
