"""Reading the labels of a table: classes by number or by name, several per row, or a number to predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kd_lightning.core.errors import DataError, hint
from kd_lightning.data.sources import check_columns, class_names
from kd_lightning.functional.hard_label import IGNORED

NONE = (None, -1, "-")
"""What data sets hold where the annotators did not agree, or the label is not published."""


LARGEST = float(np.finfo(np.float32).max)
"""The largest number to predict: labels are float32."""


@dataclass(frozen=True)
class Labels:
    """How the label column of a table is to be read.

    Args:
        column: the column; with `multilabel`, several too.
        count: number of classes.
        names: what the classes are called, in order. The column may hold names then, and one whose own names are kept
            with the data in another order is put into this one.
        multilabel: as in `label_matrix`.
        regression: labels are numbers to predict, not classes.
        values: what the column holds for each class, in order, where that is other whole numbers than 0, 1, …

    Example:
        >>> import pyarrow as pa
        >>> Labels("label", 2, names=("no", "yes")).read(pa.table({"label": ["yes", "no"]}), "here").tolist()
        [1, 0]
        >>> Labels("label", 1, regression=True).read(pa.table({"label": [2.5, 4.0]}), "here").tolist()
        [2.5, 4.0]

    """

    column: str | Sequence[str]
    count: int
    names: tuple[str, ...] | None = None
    multilabel: bool = False
    regression: bool = False
    values: tuple[Any, ...] | None = None

    @classmethod
    def find(cls, column: str, table: Any, source: object, multilabel: bool = False) -> Labels:
        """Return the labels that are in the rows of a table, in a fixed order.

        Names are sorted. Whole numbers from 0 without a gap are the classes' own numbers; others are sorted and become
        names. With `multilabel` there are as many labels as the largest number, and one more.

        Args:
            column: the column with the labels.
            table: a `pyarrow.Table` of all training rows.
            source: where it comes from, for errors.
            multilabel: as in `label_matrix`.

        Raises:
            DataError: if there are no two classes, or values that are neither names nor whole numbers.

        Example:
            >>> import pyarrow as pa
            >>> stars = pa.table({"stars": [5, 1, 3, 5]})
            >>> found = Labels.find("stars", stars, "here")
            >>> found.count, found.names, found.read(stars, "here").tolist()
            (3, ('1', '3', '5'), [2, 0, 1, 2])

        """
        if (known := class_names(table, column)) is not None:
            return cls(column, len(known), tuple(known), multilabel)
        cells = table.column(column).to_pylist()
        if multilabel:
            numbers = {number for cell in cells if isinstance(cell, list) for number in cell}
            return cls(column, max((n for n in numbers if isinstance(n, int)), default=0) + 1, None, multilabel)
        kinds = {type(_whole(cell)) for cell in cells if cell not in NONE}
        if len(kinds) > 1 or not kinds <= {str, int, bool}:
            odd = next(cell for cell in cells if cell not in NONE and type(_whole(cell)) in kinds - {str})
            raise DataError(
                f"{source}, column '{column}' holds {odd!r}, and classes are names or whole numbers. If it holds "
                "numbers to predict of texts, type data.regression=true task=regression."
            )
        values = tuple(sorted({_whole(cell) for cell in cells if cell not in NONE}))
        if len(values) < 2:
            held = f"only {values[0]!r}" if values else "no label"
            raise DataError(f"{source}, column '{column}' holds {held}: there is nothing to tell apart.")
        if kinds == {int} and values == tuple(range(len(values))):
            return cls(column, len(values))
        return cls(column, len(values), tuple(map(str, values)), values=None if kinds == {str} else values)

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return [self.column] if isinstance(self.column, str) else list(self.column)

    def read(self, table: Any, source: object) -> np.ndarray:
        """Return the labels of all rows: int64 (rows,); float32 (rows,) for regression, (rows, labels) for several.

        Args:
            table: a `pyarrow.Table` that has the columns.
            source: where it comes from, for errors.

        Raises:
            DataError: if a row's label is none, naming the first.

        """
        return self._read(table, source, range(table.num_rows))

    def read_known(self, table: Any, source: Any) -> np.ndarray:
        """Return what `read` does, −100 in rows without a label, or in all where the table has none of the columns.

        Raises:
            DataError: if a row's label is none, naming the first, or one of several columns is missing.

        """
        labels = self.none(table.num_rows)
        if not set(self.columns) & set(table.column_names):
            return labels
        check_columns(table, source, self.columns)
        if (there := self.there(table)).any():
            labels[there] = self._read(table.filter(there), source, np.flatnonzero(there).tolist())
        return labels

    def named_as(self, table: Any) -> Labels:
        """Return how other tables are read beside this one: by its names for classes, where there are no others."""
        own = class_names(table, self.column) if isinstance(self.column, str) else None
        if self.names is not None or own is None or len(own) != self.count:
            return self
        return replace(self, names=tuple(own))

    def none(self, rows: int) -> np.ndarray:
        """Return the labels of rows that have none: −100."""
        shape = (rows, self.count) if self.multilabel else (rows,)
        return np.full(shape, IGNORED, np.float32 if self.multilabel or self.regression else np.int64)

    def there(self, table: Any) -> np.ndarray:
        """Return which rows have a label, (rows,): not null nor `-`, nor −1 for a class; a list may be empty."""
        none = (None, "-") if self.regression else NONE
        missing = np.zeros(table.num_rows, dtype=bool)
        for column in self.columns:
            missing |= np.array([not isinstance(v, list) and v in none for v in table.column(column).to_pylist()])
        return ~missing

    def _read(self, table: Any, source: object, rows: Sequence[int]) -> np.ndarray:
        """Return the labels of a table whose rows have these numbers in the source."""
        if self.multilabel:
            order = self._order(table)
            matrix = label_matrix(table, source, self.column, self.count, rows)
            return matrix if order is None else matrix[:, np.argsort(order)]
        values = table.column(self.column).to_pylist()
        if self.regression:
            return self._numbers(values, source, rows)
        return self._classes([self._numbered(value) for value in values], source, rows, self._order(table))

    def _numbered(self, value: Any) -> Any:
        value = _whole(value)
        if self.values is not None:
            return self.values.index(value) if value in self.values else value if value in NONE else str(value)
        return self.names.index(value) if self.names is not None and value in self.names else value

    def _order(self, table: Any) -> list[int] | None:
        """Return the number here of each of the data's own numbers, where it has the same names in another order."""
        own = class_names(table, self.column) if isinstance(self.column, str) else None
        if self.names is None or own is None or set(own) != set(self.names):
            return None
        return [self.names.index(name) for name in own]

    def _classes(self, values: list[Any], source: object, rows: Sequence[int], order: list[int] | None) -> np.ndarray:
        for row, value in enumerate(values):
            if not isinstance(value, int) or not 0 <= value < self.count:
                raise DataError(f"{self._place(source, rows[row])} holds {value!r} where {self._expected(value)}")
        labels = np.array(values, dtype=np.int64)
        return labels if order is None else np.array(order, dtype=np.int64)[labels]

    def _expected(self, value: Any) -> str:
        if isinstance(value, str) and value not in NONE:
            known = f". {hint(value, self.names)}" if self.names is not None else "; give their names (data.labels)."
            return f"a label from 0 to {self.count - 1} should be{known}"
        advice = " Leave out rows without a label (of texts: data.drop_unlabelled=true)." if value in NONE else ""
        return f"a label from 0 to {self.count - 1} should be (num_labels={self.count}).{advice}"

    def _numbers(self, values: list[Any], source: object, rows: Sequence[int]) -> np.ndarray:
        for row, value in enumerate(values):
            if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= LARGEST:
                raise DataError(
                    f"{self._place(source, rows[row])} holds {value!r} where a number should be (regression=True), of "
                    f"at most {LARGEST:.3g}."
                )
            if value == IGNORED:
                raise DataError(
                    f"{self._place(source, rows[row])} holds {value!r}, which stands for no label: shift or scale the "
                    "numbers to predict."
                )
        return np.array(values, dtype=np.float32)

    def _place(self, source: object, row: int) -> str:
        return f"{source}, column '{self.column}', row {row}"


def check_names(names: Sequence[str], source: object) -> None:
    """Check that no class has two names, which differ in capital letters or spaces only.

    Args:
        names: of all classes.
        source: where they come from, for the error.

    Raises:
        DataError: naming the two.

    Example:
        >>> check_names(["cat", "dog"], "here")

    """
    seen: dict[str, str] = {}
    for name in names:
        plain = "".join(character for character in name.lower() if character.isalnum()) or name
        if plain in seen:
            raise DataError(f"{source} has the classes '{seen[plain]}' and '{name}': give one class one name.")
        seen[plain] = name


def _whole(value: Any) -> Any:
    """Return a whole number as an integer, as pandas writes those beside missing ones."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def label_matrix(
    table: Any, source: object, label: str | Sequence[str], num_labels: int, rows: Sequence[int] | None = None
) -> np.ndarray:
    """Return 1 where a row has a label and 0 where it has not: (rows, num_labels), float32.

    Args:
        table: a `pyarrow.Table` that has the columns.
        source: where it comes from, for errors.
        label: the column with a list of label numbers, or one column of 0 and 1 per label.
        num_labels: number of labels.
        rows: the rows' numbers in the source, for errors; None: from 0.

    Raises:
        DataError: if a value is neither a list of numbers from 0 to num_labels - 1 nor 0 or 1.

    Example:
        >>> import pyarrow as pa
        >>> table = pa.table({"labels": [[0, 2], []], "rude": [0, 1], "loud": [1, 1]})
        >>> label_matrix(table, "here", "labels", 3).tolist()
        [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
        >>> label_matrix(table, "here", ["rude", "loud"], 2).tolist()
        [[0.0, 1.0], [1.0, 1.0]]

    """
    rows = range(table.num_rows) if rows is None else rows
    if isinstance(label, str):
        return _from_lists(table, source, label, num_labels, rows)
    return np.stack([_zeros_and_ones(table, source, column, rows) for column in label], axis=1)


def _from_lists(table: Any, source: object, column: str, num_labels: int, rows: Sequence[int]) -> np.ndarray:
    matrix = np.zeros((table.num_rows, num_labels), dtype=np.float32)
    for row, numbers in enumerate(table.column(column).to_pylist()):
        for number in numbers if isinstance(numbers, list) else [numbers]:
            if not isinstance(numbers, list) or not isinstance(number, int) or not 0 <= number < num_labels:
                raise DataError(
                    f"{source}, column '{column}', row {rows[row]} holds {numbers!r} where a list of labels from 0 to"
                    f" {num_labels - 1} should be (num_labels={num_labels}, multilabel=True)."
                )
            matrix[row, number] = 1.0
    return matrix


def _zeros_and_ones(table: Any, source: object, column: str, rows: Sequence[int]) -> np.ndarray:
    values = table.column(column).to_pylist()
    for row, value in enumerate(values):
        if value not in (0, 1):
            raise DataError(
                f"{source}, column '{column}', row {rows[row]} holds {value!r} where 0 or 1 should be: whether the row"
                " has this label (multilabel=True)."
            )
    return np.array(values, dtype=np.float32)
