"""Data modules over rows of any kind: resumable training batches, exact validation batches, sizes, a fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset, default_collate

from kd_lightning.core.batch import VIEW_ID
from kd_lightning.core.errors import ConfigError, DataError
from kd_lightning.core.hashing import code_identity
from kd_lightning.data.base import DataModule
from kd_lightning.data.curriculum import Curriculum, CurriculumBatches
from kd_lightning.data.loader import Collate, Loader, of_split
from kd_lightning.data.mixed import MixedBatches, MixedRows
from kd_lightning.data.sampler import Batches, EvalBatches, TrainBatches, lengths_of


class RowDataModule(DataModule):
    """Loaders over rows that are dicts. A subclass writes `make_rows`; images need about 15 lines.

    A training run that is killed and resumed ends bit-equal to one that was not: the order of rows is a function of
    (seed, epoch), random changes of a row are one of (seed, view, row), and the loader's position is in checkpoints.

    Args:
        batch_size: training rows per batch and process.
        eval_batch_size: the same for validation and test; twice `batch_size` if None.
        seed: decides the order of training batches, and the augmentation of rows.
        num_workers: processes that make batches.
        pin_memory: None for "where there is a GPU".
        group_by_length: put rows of similar length together, where the dataset of `make_rows` has `lengths`.
        limit: use only the first rows of each split, for trying things.
        views: number of views of training rows that change: the view of an epoch, on which every random change depends,
            is epoch mod views, so that views repeat and a teacher's outputs of them can be cached. None: the view is
            the epoch.

    Example:
        >>> class Points(RowDataModule):
        ...     num_labels = 2
        ...     def make_rows(self, split):
        ...         return [{"x": float(i), "labels": i % 2} for i in range(5)]
        >>> data = Points(batch_size=5)
        >>> batch = next(iter(data.val_dataloader()))
        >>> data.sizes, batch["labels"].tolist(), batch["sample_id"].tolist()
        ({'train': 5, 'validation': 5}, [0, 1, 0, 1, 0], [0, 1, 2, 3, 4])

    """

    unlabelled_ratio: float | None = None
    """Rows without labels for each labelled one, in every epoch; None: all of them once."""

    def __init__(
        self,
        *,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
        pin_memory: bool | None = None,
        group_by_length: bool = True,
        limit: int | None = None,
        views: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("limit", limit), ("views", views)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise DataError(
                    f"{name} is a number of {'rows' if name == 'limit' else name}, at least 1; got {value}."
                )
        self._first = limit
        self.views = views
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or 2 * batch_size
        self.seed = seed
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.group_by_length = group_by_length
        self._rows: dict[str, Any] = {}
        self._mixed: MixedRows | None = None
        self._made_with: Any = None
        self._curriculum: tuple[Curriculum, np.ndarray] | None = None

    # -- what a subclass writes ---------------------------------------------------------------------------------------

    def make_rows(self, split: str) -> Any:
        """Return the rows of a split, a map-style dataset of dicts.

        A row may have its number as `sample_id`, and is given it otherwise. Where rows differ in length, a property
        `lengths` of the dataset, (rows,), keeps padding low.
        """
        raise NotImplementedError

    def make_unlabelled(self) -> Any:
        """Return rows without labels (−100), for the teacher to label; None: there are none."""
        return None

    def augment_row(self, row: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
        """Return a training row as an epoch has it, with `random` for all that is left to chance; default: unchanged.

        Args:
            row: one of `make_rows`, not to be changed itself.
            random: seeded with (seed, view, row), so that resumed runs, other workers and processes get the same.

        """
        return row

    @property
    def collate(self) -> Collate:
        """What makes a batch of a list of rows; default: stacks each field, as `torch.utils.data` does."""
        return default_collate

    @property
    def fingerprint(self) -> str:
        """Hash of all rows; batch size and order do not count. It reads every row: override it where that takes long.

        Raises:
            DataError: if a row holds what is neither tensor, array, number, text, bytes, nor a list or dict of these.

        """
        content = hashlib.sha256()
        for split in sorted(self.available_splits):
            rows = self.rows(split)
            content.update(f"{split} {len(rows)}".encode())
            for row in range(len(rows)):
                for part in _content(rows[row], type(self).__name__):
                    content.update(part)
        return content.hexdigest()[:16]

    # -- what it gets ------------------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        """Make the rows of all splits; again only after a processor was replaced."""
        made_with = (self.processor, self.teacher_processor)
        if self._made_with != made_with:
            made = {split: self.make_rows(split) for split in self.available_splits}
            if self._first is not None:
                made = {split: FirstRows(rows, self._first) for split, rows in made.items()}
            self._rows = {split: _numbered(rows, split) for split, rows in made.items()}
            unlabelled = self.make_unlabelled()
            self._mixed = MixedRows(self._rows["train"], unlabelled) if unlabelled is not None else None
            self._made_with = made_with

    @property
    def sizes(self) -> dict[str, int]:
        """Rows per split, and how many there are without labels; empty before `setup`."""
        sizes = {split: len(rows) for split, rows in self._rows.items()}
        return sizes if self._mixed is None else sizes | {"unlabelled": len(self._mixed) - sizes["train"]}

    def rows(self, split: str) -> Any:
        """Return the rows of a split, without augmentation.

        Raises:
            DataError: if there is no such split.

        """
        if split not in self.available_splits:
            raise DataError(f"This data has no '{split}' split; it has {', '.join(self.available_splits)}.")
        if not self._rows:
            self.setup()
        return self._rows[split]

    @property
    def train_rows(self) -> Any:
        """All rows that a student may be trained on: the training split, and after it those without labels."""
        rows = self.rows("train")
        return rows if self._mixed is None else self._mixed

    @property
    def varies(self) -> bool:
        """Whether training rows differ from view to view: `train_dataset` is then indexed by (row, view)."""
        return type(self).augment_row is not RowDataModule.augment_row

    @property
    def augmentation(self) -> Any:
        """What changes training rows, as JSON-like settings, for the fingerprint of a cache of views.

        Override it where `augment_row` depends on settings.
        """
        return code_identity(type(self).augment_row) if self.varies else None

    @property
    def cached_as(self) -> dict[str, Any]:
        """What a teacher cache of the training rows is made from: named parts of its fingerprint."""
        parts = super().cached_as
        if not (self.views and self.varies):
            return parts
        return parts | {"views": self.views, "augmentation": self.augmentation, "augmentation_seed": self.seed}

    def train_dataset(self) -> Any:
        """Return the training rows as a view has them: augmented, where they are."""
        if not self.varies:
            return self.train_rows
        return ChangedRows(self.train_rows, self.augment_row, self.seed, self.views)

    @property
    def training_settings(self) -> dict[str, Any]:
        """What shapes a model trained on these rows besides the rows themselves: batches and their order."""
        order = {"batch_size": self.batch_size, "group_by_length": self.group_by_length, "seed": self.seed}
        return super().training_settings | order

    def train_batches(self) -> TrainBatches:
        """Return which training rows make which batch."""
        overfit = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        rows, order = self.train_rows, {"shuffle": not overfit, "with_view": self.varies, "views": self.views}
        settings: dict[str, Any] = {"seed": self.seed, "group_by_length": self.group_by_length, **order}
        if isinstance(rows, MixedRows):
            mixture: dict[str, Any] = {"labelled": len(rows.labelled), "ratio": self.unlabelled_ratio}
            return MixedBatches(rows.lengths, self.batch_size, **mixture, **settings)
        if self._curriculum is not None:
            return CurriculumBatches(lengths_of(rows), self.batch_size, *self._curriculum, **settings)
        return TrainBatches(lengths_of(rows), self.batch_size, **settings)

    def order_by(self, curriculum: Curriculum, difficulties: np.ndarray) -> None:
        """Let training begin with easy rows.

        Args:
            curriculum: how fast the others come.
            difficulties: of each training row.

        Raises:
            ConfigError: if there are rows without labels too, whose share of an epoch is given otherwise.

        """
        if isinstance(self.train_rows, MixedRows):
            raise ConfigError("A curriculum orders labelled rows: leave data.unlabelled out, or curriculum.")
        self._curriculum = curriculum, difficulties

    def visited_rows(self, epochs: int, limit: int | float, processes: int = 1) -> np.ndarray:
        """Return the cache ids of the rows that a run cut by `limit_train_batches` trains on."""
        return self.train_batches().visited(epochs, limit, processes)

    def cache_ids(self, epochs: int | None = None) -> np.ndarray:
        """Return the ids that a teacher cache of so many epochs has: row numbers, or row · views + view."""
        rows = np.arange(len(self.train_rows))
        if not (self.views and self.varies):
            return rows
        seen = self.views if epochs is None else min(epochs, self.views)
        return (rows[:, None] * self.views + np.arange(seen)).reshape(-1)

    def train_dataloader(self) -> Loader:
        """Return shuffled batches, resumable in mid-epoch."""
        return self.loader(self.train_dataset(), self.train_batches())

    def iterate_once(self, ids: np.ndarray | None = None) -> Loader:
        """Return a loader that gives training rows once each: what a teacher cache is built from.

        Args:
            ids: of `cache_ids`, numbers of rows without augmentation, or of their views; None: all.

        """
        kept = self.cache_ids() if ids is None else np.asarray(ids)
        if not (self.views and self.varies):
            train, rows, keys = self.train_rows, kept, kept.tolist()
        else:
            train, (rows, views) = self.train_dataset(), np.divmod(kept, self.views)
            keys = list(zip(rows.tolist(), views.tolist(), strict=True))
        batches = EvalBatches(lengths_of(train)[rows], self.eval_batch_size, self.group_by_length)
        return self.loader(Subset(train, keys), batches)

    def val_dataloader(self) -> Loader | list[Any]:
        """Return each row once that checkpoints are chosen on: of the `selection` split, or else of validation."""
        return self.eval_loader(self.selection_split)

    def test_dataloader(self) -> Loader | list[Any]:
        """Return each test row once."""
        return self.eval_loader("test")

    def eval_loader(self, split: str) -> Loader | list[Any]:
        """Return each row of a split once; nothing where there is none.

        Batches of other splits than validation have its name in the field `split`.
        """
        if split not in self.available_splits:
            return []
        return self.loader(self.eval_dataset(split), self.eval_batches(split), of_split(self.collate, split))

    def eval_dataset(self, split: str) -> Any:
        """Return the rows of a split as they are evaluated."""
        return self.rows(split)

    def eval_batches(self, split: str) -> EvalBatches:
        """Return which rows of a split make which batch."""
        return EvalBatches(lengths_of(self.rows(split)), self.eval_batch_size, self.group_by_length)

    def loader(self, rows: Any, batches: Batches, collate: Collate | None = None) -> Loader:
        """Return a loader with this module's settings."""
        return Loader(
            rows,
            batches,
            collate or self.collate,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available() if self.pin_memory is None else self.pin_memory,
            persistent_workers=self.num_workers > 0,
        )


class EpochRows(Dataset[dict[str, Any]]):
    """Rows that change from epoch to epoch; what a row becomes is a function of (seed, view, row) alone.

    So a resumed run, other workers and other processes get the same. The view is the epoch, or with `views` epoch
    mod views: views then repeat, and rows have a number of row and view, `view_id`, for teacher caches. Subclasses
    write `change`.

    Args:
        rows: a map-style dataset.
        seed: with view and row, decides what happens.
        views: number of views, for rows whose views repeat.

    """

    stream = 0xA06
    """Keeps these draws apart from those that order the batches."""

    def __init__(self, rows: Any, seed: int = 0, views: int | None = None) -> None:
        self.rows = rows
        self.seed = seed
        self.views = views

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Return a row as it is in a view; key: (row, view), or the row for the first view."""
        row, view = key if isinstance(key, tuple) else (key, 0)
        given = self.rows[row]
        changed = self.change(given, self.random(row, view))
        return changed if self.views is None else {**changed, VIEW_ID: row * self.views + view}

    def random(self, row: int, view: int) -> np.random.Generator:
        """Return the generator of a row in a view."""
        return np.random.default_rng([self.stream, self.seed, view, row])

    def change(self, row: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
        """Return what becomes of a row."""
        raise NotImplementedError

    @property
    def lengths(self) -> np.ndarray:
        """Length of each row before it is changed."""
        return lengths_of(self.rows)


class ChangedRows(EpochRows):
    """Rows changed by a function.

    Args:
        rows: a map-style dataset.
        augment: what returns a changed row, of the row and a random generator.
        seed: with view and row, decides what happens.
        views: number of views, for rows whose views repeat.

    """

    def __init__(
        self,
        rows: Any,
        augment: Callable[[dict[str, Any], np.random.Generator], Any],
        seed: int = 0,
        views: int | None = None,
    ) -> None:
        super().__init__(rows, seed, views)
        self.augment = augment

    def change(self, row: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
        """Return what becomes of a row."""
        return self.augment(row, random)


class NumberedRows(Dataset[dict[str, Any]]):
    """Rows with their number as `sample_id`.

    Args:
        rows: a map-style dataset of dicts.

    """

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {**self.rows[row], "sample_id": int(row)}

    @property
    def lengths(self) -> np.ndarray:
        """Length of each row."""
        return lengths_of(self.rows)


class FirstRows(Dataset[dict[str, Any]]):
    """The first rows of a dataset, for trying things.

    Args:
        rows: a map-style dataset.
        limit: how many of them at most.

    """

    def __init__(self, rows: Any, limit: int) -> None:
        self.rows = rows
        self.limit = min(limit, len(rows))
        if hasattr(rows, "lengths"):
            self.lengths = rows.lengths[: self.limit]

    def __len__(self) -> int:
        return self.limit

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.rows[row]


def _numbered(rows: Any, split: str) -> Any:
    """Return rows that have a `sample_id`."""
    if not len(rows):
        raise DataError(f"The '{split}' split has no rows.")
    if not isinstance(first := rows[0], Mapping):
        raise DataError(
            "Rows are dicts such as {'pixel_values': …, 'labels': …}, but "
            f"make_rows('{split}') returned a dataset of {type(first).__name__}."
        )
    return rows if "sample_id" in first else NumberedRows(rows)


def content_hash(value: Any, owner: str) -> str:
    """Return a hash of what a value is made of: tensors, arrays, numbers, text, bytes, lists and dicts of these.

    Args:
        value: what is hashed.
        owner: whose it is, for the error.

    Raises:
        DataError: if it holds anything else.

    """
    total = hashlib.sha256()
    for part in _content(value, owner):
        total.update(part)
    return total.hexdigest()[:16]


def _content(value: Any, owner: str) -> Iterator[bytes]:
    """Yield what a value of a row is made of, with types and sizes."""
    if isinstance(value, Mapping):
        value = [item for key in sorted(value) for item in (key, value[key])]
    if isinstance(value, list | tuple):
        yield f"{len(value)} items ".encode()
        for item in value:
            yield from _content(item, owner)
    elif isinstance(value, str | bytes):
        data = value.encode() if isinstance(value, str) else value
        yield f"{type(value).__name__} {len(data)} ".encode() + data
    else:
        array = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
        if array.dtype.hasobject:
            raise DataError(
                f"Rows of {owner} hold {type(value).__name__}, of which no fingerprint can be made: write the property "
                "`fingerprint`, a string that changes with the data."
            )
        yield f"{array.dtype} {array.shape} ".encode() + array.tobytes()
