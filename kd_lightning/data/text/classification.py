"""Classification of texts or pairs of texts, from Parquet files or the Hugging Face hub."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from kd_lightning.core.errors import DataError
from kd_lightning.data.labelled import LabelledDataModule
from kd_lightning.data.labels import Labels
from kd_lightning.data.readers import Row
from kd_lightning.data.sources import Source, texts_of
from kd_lightning.data.text.sourced import TextDataModule
from kd_lightning.data.text.tokenizing import check_room, check_tokenizer
from kd_lightning.data.text.tokens import Rows
from kd_lightning.functional.hard_label import IGNORED

log = logging.getLogger(__name__)


class TextClassification(LabelledDataModule, TextDataModule):
    """A data set of texts, or pairs of texts, with one label each, or with any number of labels.

    Args:
        name: the data set's name; with `root`, its folder.
        text: the column with the text, or the two columns of a pair.
        label: the column with the label: an integer from 0, or a name. With `multilabel`: the column with a list of
            integers, or one column of 0 and 1 per label. With `regression`: a number to predict.
        num_labels: number of classes; None: as many as `labels`, with `regression` 1, else those of the training rows,
            see `Labels.find`.
        tokenizer: a transformers tokenizer; may also be set as attribute before `setup`.
        multilabel: a row may have several labels, or none; `labels` of a batch is then float, 0 or 1: (batch, labels).
        regression: labels are numbers to predict: `labels` of a batch is then float, (batch,).
        labels: what the classes are called, in the order of their numbers; the column may then hold names.
        drop_unlabelled: leave out rows of its own without a label: null, `-`, or -1 for a class.
        loading: further arguments of `TextDataModule`: where rows come from and which are trained on beside them
            (of `unlabelled` text for pairs, texts that follow each other make one), and how batches are made.

    Raises:
        DataError: at construction if settings contradict each other; in `setup` if a folder, file, column or label is
            missing or does not fit.

    Example:
        >>> data = TextClassification("sst2", text="sentence", root="/nowhere", limit=100, num_labels=2)
        >>> data.num_labels, data.sizes
        (2, {})

    """

    head = "sequence-classification"

    def __init__(
        self,
        name: str,
        text: str | Sequence[str],
        label: str | Sequence[str] = "label",
        num_labels: int | None = None,
        tokenizer: Any = None,
        *,
        multilabel: bool = False,
        regression: bool = False,
        labels: Sequence[str] | None = None,
        drop_unlabelled: bool = False,
        **loading: Any,
    ) -> None:
        super().__init__(name=name, tokenizer=tokenizer, **loading)
        self.text = [text] if isinstance(text, str) else list(text)
        self.label = label if isinstance(label, str) else list(label)
        self.multilabel = multilabel
        self.regression = regression
        self.drop_unlabelled = drop_unlabelled
        names = tuple(labels) if labels is not None else None
        count = num_labels or (1 if regression else len(names) if names else None)
        if count is None and not isinstance(self.label, str):
            count = len(self.label)
        if count is not None:
            self.known_labels = Labels(self.label, count, names, multilabel, regression)
        self._check(count, names)

    def _check(self, count: int | None, names: tuple[str, ...] | None) -> None:
        if len(self.text) not in (1, 2):
            raise DataError(f"text names one column, or two for pairs; got {self.text}.")
        if not isinstance(self.label, str) and not self.multilabel:
            raise DataError(f"label names columns {self.label}: several labels per row need multilabel=True.")
        if not isinstance(self.label, str) and len(self.label) != count:
            raise DataError(f"label names {len(self.label)} columns, one per label, but num_labels={count}.")
        if names is not None and len(names) != count:
            raise DataError(f"labels names {len(names)} classes, but num_labels={count}.")
        if self.regression and (self.multilabel or count != 1):
            raise DataError("regression predicts one number per row: num_labels is 1 then, and multilabel=False.")

    @property
    def columns(self) -> list[str]:
        """The columns that are read: texts first, then labels."""
        return [*self.text, *self.label_columns]

    @property
    def cache_key_fields(self) -> tuple[Any, ...]:
        """The settings that decide what rows are made of a table, besides tokenizer, `max_length` and `limit`."""
        reading = (self.regression, self.drop_unlabelled, sorted(self.rename.items()))
        return self.text, self.label, self.num_labels, self.classes, reading, *self.held_out

    @property
    def text_columns(self) -> list[str]:
        """Those of the columns that have texts."""
        return self.text

    def setup(self, stage: str | None = None) -> None:
        """Tokenise all splits, or find them tokenised; again only after the tokenizer was replaced.

        Raises:
            DataError: if there is no tokenizer, rows are too short for any text, or data is missing or does not fit.

        """
        for tokenizer in [self.tokenizer, *([] if self.teacher_tokenizer is None else [self.teacher_tokenizer])]:
            check_tokenizer(tokenizer, self.max_length)
            check_room(tokenizer, self.max_length, pair=len(self.text) == 2)
        super().setup(stage)

    def without_labels(self, texts: list[Row]) -> Rows:
        """Return rows of texts, or pairs, without labels."""
        return self.encode(list(zip(*texts, strict=True)), self.labels.none(len(texts)))

    def row_numbers(self, split: str) -> np.ndarray | None:
        """Return where in the file each row of a split is; None: all rows of it are here."""
        numbers = super().row_numbers(split)
        if not self.drop_unlabelled:
            return numbers
        (table, _), *_ = super().tables(split)
        there = self.labels.there(table)
        return np.flatnonzero(there) if numbers is None else numbers[there]

    def texts(self, split: str = "train") -> list[str]:
        """Return all texts of a split, such as a tokenizer is trained on; the two of a pair follow each other."""
        columns, _ = self._read(split)
        return [text for row in zip(*columns, strict=True) for text in row]

    def tokenise(self, split: str) -> Rows:
        """Return a split's rows, tokenised from its files."""
        return self.encode(*self._read(split))

    def _read(self, split: str) -> tuple[list[list[str]], np.ndarray]:
        """Return the texts, column by column, and the labels of a split, each source's by the names it has for them."""
        first, *more = self.tables(split)
        labels = self.labels_of([first, *more])
        for (_, source), known in zip(more, labels[1:], strict=True):
            if without := int((known.reshape(len(known), -1)[:, 0] == IGNORED).sum()):
                log.info("%s: %d of %d rows have no label; a teacher labels them.", source, without, len(known))
        texts = [texts_of(table, source, self.text) for table, source in (first, *more)]
        return [[text for some in column for text in some] for column in zip(*texts, strict=True)], np.concatenate(
            labels
        )

    def tables(self, split: str) -> list[tuple[Any, Source]]:
        """Return a split's own table and the extra ones; its own without a label are left out for `drop_unlabelled`."""
        (table, source), *more = super().tables(split)
        return [(self._labelled(table, source, split) if self.drop_unlabelled else table, source), *more]

    def _labelled(self, table: Any, source: Source, split: str) -> Any:
        kept = self.labels.there(table)
        if not kept.any():
            raise DataError(f"No row of {source} has a label (column '{self.label}').")
        if not kept.all():
            log.info("%s %s: %d rows without a label are left out.", self.name, split, int((~kept).sum()))
        return table.filter(kept)
