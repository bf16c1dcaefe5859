"""What the command needs of a data module: loaders, sizes, a fingerprint, classes and a processor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningDataModule

from kd_lightning.core.errors import DataError
from kd_lightning.core.types import RowInfo

SPLITS = ("train", "validation", "test", "mismatched")
"""What a split may be called; MNLI has a second validation split, of other kinds of text, which is `mismatched`."""
OTHER_SPLITS = SPLITS[2:]
"""What is evaluated beside the validation split, where a data set has it."""
SELECTION = "selection"
"""What training rows are called that are held out to choose checkpoints, epochs and settings on."""


class DataModule(LightningDataModule):
    """A `LightningDataModule` that describes its rows. Every member has a default, so a subclass writes what it knows.

    A data module over rows is shorter on top of `RowDataModule`, which writes the loaders too; derive from this class
    where the loaders exist already. Batches are what `kd_lightning.DistillationModule` takes; each needs `sample_id`,
    the row's number within its split (batch,), only where teacher outputs are cached.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> class Pairs(DataModule):
        ...     num_labels = 3
        ...     def train_dataloader(self):
        ...         return DataLoader([([0.0, 1.0], 2)])
        >>> data = Pairs()
        >>> data.num_labels, data.max_length, data.row_numbers("train")
        (3, None, None)

    """

    name: str = "data"
    """The data set's name, for messages and folders."""

    head: ClassVar[str | None] = None
    """Which model head its rows are for, a key of `kd_lightning.models.heads.AUTO_CLASSES`; None: any."""

    num_labels: int | None = None
    """Number of classes, or of labels of a row with several; None: a model's head has no size that depends on them."""

    classes: list[str] | None = None
    """The names of the classes, by number; None: they have none."""

    multilabel: bool = False
    """Whether a row may have several labels, or none, instead of one."""

    regression: bool = False
    """Whether labels are numbers to predict."""

    writes_predictions: bool = True
    """Whether a run writes what is predicted for each row; made-up rows, which are in no file, need no such table."""

    needs_processor: bool = False
    """Whether rows are made by a tokenizer or image processor, which the command then loads or builds."""

    processor: Any = None
    """The student's tokenizer or image processor, which is saved with it; None: there is none."""

    teacher_processor: Any = None
    """The teacher's, where it is another one: batches then have a `student` and a `teacher` part."""

    processor_key: ClassVar[str] = "processor"
    """What processors are called in messages, and the argument that names the student's: `data.tokenizer` of text."""

    max_length: int | None = None
    """Tokens per row at most; None: rows are no tokens."""

    image_size: tuple[int, int] | None = None
    """Height and width of the student's images; None: rows are no images."""

    teacher_image_size: tuple[int, int] | None = None
    """The same for the teacher's, where they differ from the student's."""

    views: int | None = None
    """How many ways there are in which changing training rows come, over and over; None: no end of them."""

    @property
    def mixes_labels(self) -> bool:
        """Whether training rows have probabilities of classes for labels, as mixed images have."""
        return False

    augments_labelled: ClassVar[bool] = False
    """Whether augmented rows keep their labels, so that a teacher is fine-tuned on them too."""

    @property
    def saved_processor(self) -> Any:
        """What is saved with the student: its processor, unless its inputs need another one."""
        return self.processor

    @property
    def available_splits(self) -> Iterable[str]:
        """The splits there are: of `SPLITS`, and `selection` where training rows are held out to choose on."""
        return SPLITS[:2]

    @property
    def selection_split(self) -> str:
        """The split that checkpoints, epochs and settings are chosen on: what `val_dataloader` gives."""
        return SELECTION if SELECTION in self.available_splits else self.report_split

    @property
    def report_split(self) -> str:
        """The split whose scores a run reports: validation; beside `selection` test, where there is no validation."""
        known = list(self.available_splits)
        if "validation" in known or SELECTION not in known:
            return "validation"
        return "test" if "test" in known else SELECTION

    @property
    def other_splits(self) -> list[str]:
        """The splits whose scores are reported besides."""
        return [split for split in OTHER_SPLITS if split in self.available_splits and split != self.report_split]

    @property
    def sizes(self) -> dict[str, int]:
        """Rows per split; empty where that is not known, as before `setup`."""
        return {}

    @property
    def fingerprint(self) -> str:
        """Hash of the data and of all that was done to it; batch size and order do not count.

        Raises:
            DataError: if the subclass has none: without it, caches and fine-tuned teachers could be of other data.

        """
        raise DataError(
            f"{type(self).__name__} has no fingerprint, by which caches and fine-tuned teachers are found. Write "
            "the property `fingerprint`: a string that changes with the data."
        )

    @property
    def training_settings(self) -> dict[str, Any]:
        """What shapes a model trained on this data besides the rows themselves, such as batch size and order.

        It is part of a fine-tuned teacher's fingerprint.
        """
        return {"num_labels": self.num_labels}

    def eval_loader(self, split: str) -> Any:
        """Return a loader that gives each row of a split once; an empty list where there is no such split.

        Raises:
            DataError: beside `selection`, which `val_dataloader` gives, there is no loader of the validation split.

        """
        if split not in self.available_splits:
            return []
        if split == "validation" and split != self.selection_split:
            raise DataError(
                f"{type(self).__name__} has a '{SELECTION}' split, which val_dataloader gives: write "
                "eval_loader(split), which gives the validation split too."
            )
        return self.val_dataloader() if split == self.selection_split else self.test_dataloader()

    @property
    def train_rows(self) -> Any:
        """All rows that a student may be trained on, without augmentation, as a map-style dataset; None: not known."""
        return None

    def row_info(self) -> RowInfo:
        """Return the ids and labels of all training rows, for losses that keep something of each; after `setup`.

        Raises:
            DataError: if training rows are not known.

        """
        rows = self.train_rows
        if rows is None:
            raise DataError(f"{type(self).__name__} has no `train_rows`, of which a loss wants ids and labels.")
        made = [rows[number] for number in range(len(rows))]
        labels = [row.get("labels") for row in made]
        known = all(isinstance(label, int | np.integer) for label in labels)
        return RowInfo(torch.tensor([int(row["sample_id"]) for row in made]), torch.tensor(labels) if known else None)

    def iterate_once(self, ids: np.ndarray | None = None) -> Any:
        """Return a loader that gives training rows once each: what a teacher cache is built from.

        Args:
            ids: of `cache_ids`; None: all. Without `train_rows` these are the training batches.

        """
        return self.train_dataloader()

    def cache_ids(self, epochs: int | None = None) -> np.ndarray | None:
        """Return the ids that a teacher cache of so many epochs has, as batches have them; None: not known."""
        return None

    @property
    def varies(self) -> bool:
        """Whether training rows differ from epoch to epoch, or from view to view where there are `views`."""
        return False

    @property
    def cached_as(self) -> dict[str, Any]:
        """What a teacher cache of the training rows is made from: named parts of its fingerprint."""
        return {"data": self.fingerprint}

    def visited_rows(self, epochs: int, limit: int | float, processes: int = 1) -> np.ndarray | None:
        """Return the cache ids of the rows that a run cut by `limit_train_batches` trains on; None: not known.

        Args:
            epochs: number of epochs.
            limit: batches per epoch and process, or a share of them, as `limit_train_batches`.
            processes: number of processes.

        """
        return None

    def row_numbers(self, split: str) -> np.ndarray | None:
        """Return which row of the source each row of a split is, or which file; None: the rows are its first ones."""
        return None

    def load_processor(self, name: str) -> Any:
        """Return a processor by name, as `data.tokenizer` gives it: that of a model on the hub or in a folder.

        Raises:
            DataError: if this data needs no processor.

        """
        raise DataError(f"{type(self).__name__} needs no tokenizer or image processor, but was given '{name}' as one.")

    def set_processors(self, teacher: Any) -> None:
        """Use the teacher's processor: for the student too, unless this data has another one for it.

        Args:
            teacher: the teacher's processor; None: it has none.

        """
        if self.processor is None:
            self.processor = teacher
        elif teacher is not None and not self.interchangeable(self.processor, teacher):
            self.teacher_processor = teacher

    def for_teacher(self) -> None:
        """Make batches for the teacher's own training, of its inputs alone; called before `setup`."""

    def input_options(self, teacher: bool = False) -> dict[str, Any]:
        """Return what builders of models are told of their inputs: vocabulary and padding, or the size of images.

        Args:
            teacher: whether it is a teacher, whose images may have another size.

        """
        options: dict[str, Any] = {}
        if self.max_length is not None and self.processor is not None:
            options |= {"vocab_size": len(self.processor), "pad_token_id": self.processor.pad_token_id}
        size = (self.teacher_image_size if teacher else None) or self.image_size
        if size is not None:
            height, width = size
            options["image_size"] = height if height == width else [height, width]
        return options

    def describe_processor(self, processor: Any) -> str:
        """Return what tells a processor from another one in a message."""
        return type(processor).__name__

    def interchangeable(self, one: Any, other: Any) -> bool:
        """Return whether two processors make the same inputs, so that one batch is for both their models."""
        return True
