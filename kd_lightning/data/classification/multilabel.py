"""Several labels per row: from one column of label numbers, or from a 0/1 column each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kd_lightning.core.errors import DataError


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
        DataError: a value that is neither a list of numbers from 0 to num_labels - 1 nor 0 or 1.

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
