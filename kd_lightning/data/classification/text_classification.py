"""Classification of texts or pairs of texts, from Parquet files or the Hugging Face hub."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_lightning.data.augment.rows import Augmentations
from kd_lightning.data.base import Rows
from kd_lightning.data.classification.labels import Labels
from kd_lightning.data.reading.files import texts_of
from kd_lightning.data.reading.text_formats import Row
from kd_lightning.data.sourced import SourcedDataModule
from kd_lightning.errors import DataError
from kd_lightning.functional.hard_label import IGNORED
from kd_lightning.metrics.labels import LabelRecorder

log = logging.getLogger(__name__)


class TextClassification(SourcedDataModule):
    """A data set of texts, or pairs of texts, with one label each, or with any number of labels.

    Rows are tokenised once and kept, without padding, under a fingerprint of the data, the tokenizer and the settings;
    later runs and other processes map the same files.

    Args:
        name: the data set's name; with `root`, its folder.
        text: the column with the text, or the two columns of a pair.
        label: the column with the label, an integer from 0. With `multilabel`: the column with a list of such integers,
            or one column of 0 and 1 per label. With `regression`: a number to predict.
        num_labels: number of classes; None: as many as `labels`, else 2; with `regression` 1.
        tokenizer: a transformers tokenizer; may also be set as attribute before `setup`.
        root: read `root/<name>/<split>.parquet`; None reads the hub.
        hub: the data set's name on the hub.
        subset: the hub's configuration name.
        splits: what `train`, `validation` and, if wanted, `test` are called there.
        max_length: tokens per row at most.
        limit: use only the first rows of each split, for trying things.
        cache_dir: where tokenised rows are kept, in `data/`; None for `$KD_CACHE`, else `~/.cache/kd_lightning`.
        loading: `batch_size`, `eval_batch_size`, `seed`, `num_workers`, `pin_memory`, `group_by_length` and
            `pad_to_multiple_of`, as `TokenDataModule` describes them.
        multilabel: a row may have several labels, or none; `labels` of a batch is then float, 0 or 1: (batch, labels).
        augment: random changes of training rows, such as `[Mask(0.1), Delete(0.1)]`; not of what is kept on disk.
        regression: labels are numbers to predict: `labels` of a batch is then float, (batch,).
        labels: what the classes are called, in the order of their numbers; the column may then hold names.
        drop_unlabelled: leave out rows without a label: null, -1 or `-`.
        rename: columns that have another name in some source, as in `{premise: sentence1}`.
        extra: further data sets of the same columns and labels to train on: `NAME`, `NAME/SPLIT` or `FILE.parquet`; see
            `extra_source`.
        extra_hubs: where those are on the hub: by name, `hub` and `subset`.
        unlabelled: text to train on beside the labelled rows, for a teacher to label: a file, a folder, or the name of
            a data set below `root`. Of pairs, texts that follow each other make one. See `SourcedDataModule`.
        unlabelled_ratio: rows of it for each labelled one in every epoch; None for all of them.
        unlabelled_text: the column that has its text, in tables without the columns of this data set.

    Raises:
        DataError: at construction for settings that make no sense; in `setup` for a folder, file, column or label that
            is missing or does not fit.

    Example:
        >>> data = TextClassification("sst2", text="sentence", root="/nowhere", limit=100)
        >>> data.num_labels, data.sizes
        (2, {})

    """

    made_for = "sequence-classification"

    def __init__(
        self,
        name: str,
        text: str | Sequence[str],
        label: str | Sequence[str] = "label",
        num_labels: int | None = None,
        tokenizer: Any = None,
        root: str | Path | None = None,
        hub: str | None = None,
        subset: str | None = None,
        splits: Mapping[str, str] | None = None,
        max_length: int = 128,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
        limit: int | None = None,
        cache_dir: str | Path | None = None,
        pin_memory: bool | None = None,
        group_by_length: bool = True,
        pad_to_multiple_of: int | None = None,
        augment: Augmentations = None,
        multilabel: bool = False,
        regression: bool = False,
        labels: Sequence[str] | None = None,
        drop_unlabelled: bool = False,
        rename: Mapping[str, str] | None = None,
        extra: str | Sequence[str] | None = None,
        extra_hubs: Mapping[str, Any] | None = None,
        unlabelled: str | Path | None = None,
        unlabelled_ratio: float | None = None,
        unlabelled_text: str = "text",
    ) -> None:
        super().__init__(
            name=name,
            root=root,
            hub=hub,
            subset=subset,
            splits=splits,
            rename=rename,
            limit=limit,
            cache_dir=cache_dir,
            extra=extra,
            extra_hubs=extra_hubs,
            unlabelled=unlabelled,
            unlabelled_ratio=unlabelled_ratio,
            unlabelled_text=unlabelled_text,
            tokenizer=tokenizer,
            num_labels=num_labels or (1 if regression else len(labels or (0, 1))),
            max_length=max_length,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
            num_workers=num_workers,
            pin_memory=pin_memory,
            group_by_length=group_by_length,
            pad_to_multiple_of=pad_to_multiple_of,
            augment=augment,
        )
        self.text = [text] if isinstance(text, str) else list(text)
        self.label = label if isinstance(label, str) else list(label)
        self.labels = list(labels) if labels is not None else None
        self.multilabel = multilabel
        self.regression = regression
        self.drop_unlabelled = drop_unlabelled
        self.rename = dict(rename or {})
        self._check()

    def _check(self) -> None:
        if len(self.text) not in (1, 2):
            raise DataError(f"text names one column, or two for pairs; got {self.text}.")
        if not isinstance(self.label, str) and not self.multilabel:
            raise DataError(f"label names columns {self.label}: several labels per row need multilabel=True.")
        if not isinstance(self.label, str) and len(self.label) != self.num_labels:
            raise DataError(f"label names {len(self.label)} columns, one per label, but num_labels={self.num_labels}.")
        if self.labels is not None and len(self.labels) != self.num_labels:
            raise DataError(f"labels names {len(self.labels)} classes, but num_labels={self.num_labels}.")
        if self.regression and (self.multilabel or self.num_labels != 1):
            raise DataError("regression predicts one number per row: num_labels is 1 then, and multilabel=False.")

    @property
    def _labels(self) -> Labels:
        names = tuple(self.labels) if self.labels is not None else None
        return Labels(self.label, self.num_labels, names, self.multilabel, self.regression)

    @property
    def columns(self) -> list[str]:
        """The columns that are read: texts first, then labels."""
        return [*self.text, *self._labels.columns]

    @property
    def head(self) -> dict[str, Any]:
        """What the configuration of a model for this data says of its labels."""
        problem = {"problem_type": "regression"} if self.regression else {}
        names = {"id2label": dict(enumerate(self.labels))} if self.labels is not None else {}
        numbers = {"label2id": {name: number for number, name in enumerate(self.labels or [])}} if names else {}
        return super().head | problem | names | numbers

    def recorder(self) -> LabelRecorder:
        """Return what notes the label that is predicted for each row."""
        return LabelRecorder(self)

    @property
    def shaped_by(self) -> tuple[Any, ...]:
        """The settings that shape rows, besides tokenizer, `max_length` and `limit`."""
        reading = (self.regression, self.drop_unlabelled, sorted(self.rename.items()))
        return self.text, self.label, self.num_labels, self.labels, reading

    @property
    def text_columns(self) -> list[str]:
        """Those of the columns that have texts."""
        return self.text

    def without_labels(self, texts: list[Row]) -> Rows:
        """Return rows of texts, or pairs, that nobody has labelled."""
        floats = self.multilabel or self.regression
        shape = (len(texts), self.num_labels) if self.multilabel else (len(texts),)
        return self.encode(list(zip(*texts, strict=True)), np.full(shape, IGNORED, np.float32 if floats else np.int64))

    def row_numbers(self, split: str) -> np.ndarray | None:
        """Return where in the file each row of a split is; None where all rows of it are here."""
        if not self.drop_unlabelled:
            return None
        return np.flatnonzero(self._labels.there(super().table(split)))

    def texts(self, split: str = "train") -> list[str]:
        """Return all texts of a split, such as a tokenizer is trained on; the two of a pair follow each other."""
        columns, _ = self._read(split)
        return [text for row in zip(*columns, strict=True) for text in row]

    def tokenise(self, split: str) -> Rows:
        """Return a split's rows, made anew from its files."""
        return self.encode(*self._read(split))

    def _read(self, split: str) -> Any:
        table, source = self.table(split), self.sources[split]
        return texts_of(table, source, self.text), self._labels.read(table, source)

    def table(self, split: str) -> Any:
        """Return a split as a `pyarrow.Table` of no more than `limit` rows, unlabelled ones left out if so wanted."""
        table = super().table(split)
        if not self.drop_unlabelled:
            return table
        kept = self._labels.there(table)
        if not kept.any():
            raise DataError(f"No row of {self.sources[split]} has a label (column '{self.label}').")
        if not kept.all():
            log.info("%s %s: %d rows without a label are left out.", self.name, split, int((~kept).sum()))
        return table.filter(kept)
