"""Reading the labels of a table: classes by number or by name, several per row, or a number to predict."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd_lightning.data.classification.multilabel import label_matrix
from kd_lightning.errors import DataError, hint

NONE = (None, -1, "-")
"""What data sets write where the annotators did not agree, or the label is kept from us."""


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
            DataError: naming the first row whose label is none.

        """
        if self.multilabel:
            return label_matrix(table, source, self.column, self.count)
        values = table.column(self.column).to_pylist()
        if self.regression:
            return self._numbers(values, source)
        return self._classes([self._numbered(value) for value in values], source, self._order(table))

    def there(self, table: Any) -> np.ndarray:
        """Return which rows have a label, (rows,): not null, nor -1, nor `-`; a list of labels may be empty."""
        missing = np.zeros(table.num_rows, dtype=bool)
        for column in self.columns:
            missing |= np.array([not isinstance(v, list) and v in NONE for v in table.column(column).to_pylist()])
        return ~missing

    def _numbered(self, value: Any) -> Any:
        return self.names.index(value) if self.names is not None and value in self.names else value

    def _order(self, table: Any) -> list[int] | None:
        """Return the number here of each of the data's own numbers, where it has the same names in another order."""
        own = kept_names(table, self.columns[0])
        if self.names is None or own is None or set(own) != set(self.names):
            return None
        return [self.names.index(name) for name in own]

    def _classes(self, values: list[Any], source: object, order: list[int] | None) -> np.ndarray:
        for row, value in enumerate(values):
            if not isinstance(value, int) or not 0 <= value < self.count:
                raise DataError(f"{self._place(source, row)} holds {value!r} where {self._expected(value)}")
        labels = np.array(values, dtype=np.int64)
        return labels if order is None else np.array(order, dtype=np.int64)[labels]

    def _expected(self, value: Any) -> str:
        if isinstance(value, str) and value not in NONE:
            known = f". {hint(value, self.names)}" if self.names is not None else "; give their names (data.labels)."
            return f"a label from 0 to {self.count - 1} should be{known}"
        said = f"a label from 0 to {self.count - 1} should be (num_labels={self.count})."
        return f"{said} Leave out rows without a label by data.drop_unlabelled=true." if value in NONE else said

    def _numbers(self, values: list[Any], source: object) -> np.ndarray:
        for row, value in enumerate(values):
            if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
                raise DataError(
                    f"{self._place(source, row)} holds {value!r} where a number should be (regression=True)."
                )
        return np.array(values, dtype=np.float32)

    def _place(self, source: object, row: int) -> str:
        return f"{source}, column '{self.column}', row {row}"


def kept_names(table: Any, column: str) -> list[str] | None:
    """Return the class names that `datasets` keeps with a table, None where it keeps none.

    Example:
        >>> from datasets import ClassLabel, Dataset, Features
        >>> rows = Dataset.from_dict({"label": [0, 1]}, features=Features({"label": ClassLabel(names=["no", "yes"])}))
        >>> kept_names(rows.with_format("arrow")[:], "label")
        ['no', 'yes']

    """
    kept = (table.schema.metadata or {}).get(b"huggingface")
    features = json.loads(kept)["info"]["features"] if kept is not None else {}
    return features.get(column, {}).get("names") if isinstance(features.get(column), dict) else None
