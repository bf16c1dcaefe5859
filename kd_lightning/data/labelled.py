"""Data modules over tables whose rows have labels: how many there are and what they are called."""

from __future__ import annotations

from typing import Any

from kd_lightning.data.labels import Labels
from kd_lightning.data.sourced import SourcedDataModule
from kd_lightning.data.sources import check_columns


class LabelledDataModule(SourcedDataModule):
    """Sourced rows with a label column. A subclass sets `label`, and `known_labels` where the classes are given."""

    label: str | list[str]
    """The column, or several where a row may have several labels."""

    known_labels: Labels | None = None
    """How the columns are read, as far as it was given."""

    @property
    def labels(self) -> Labels:
        """How the label columns are read; classes that were not given are those of all training rows."""
        if self.known_labels is None:
            source = self.sources["train"]
            table = source.table(self.text_columns)
            check_columns(table, source, self.columns)
            assert isinstance(self.label, str)
            self.known_labels = Labels.find(self.label, table, source, self.multilabel)
        return self.known_labels

    @property
    def num_labels(self) -> int:  # type: ignore[override]
        """Number of classes, or of labels."""
        return self.labels.count

    @property
    def classes(self) -> list[str] | None:  # type: ignore[override]
        """The names of the classes, by number; None: they have none."""
        return list(self.labels.names) if self.labels.names is not None else None

    @property
    def label_columns(self) -> list[str]:
        """What extra data may lack."""
        return [self.label] if isinstance(self.label, str) else self.label

    def labels_of(self, tables: list[tuple[Any, Any]]) -> list[Any]:
        """Return the labels of a split's own table and of the extra ones, each read by the names it has for them.

        Args:
            tables: with their sources, as `tables(split)` returns them; rows of extra ones may have no label (−100).

        Raises:
            DataError: if a row's label is none, naming the first.

        """
        first, *more = tables
        named = self.labels.named_as(first[0])
        return [self.labels.read(*first), *(named.read_known(*one) for one in more)]
