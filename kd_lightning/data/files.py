"""Where rows come from: Parquet files in a folder, or the Hugging Face hub."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kd_lightning.data.multilabel import label_matrix
from kd_lightning.errors import DataError, hint


@dataclass(frozen=True)
class Source:
    """One split of a data set.

    Args:
        name: the data set's name; below `root`, its folder.
        stem: the split's name there: `train` for `train.parquet` or the hub's split.
        root: folder of data sets, or None for the hub.
        hub: the data set's name on the hub.
        subset: the hub's configuration name, such as `sst2` of `nyu-mll/glue`.

    """

    name: str
    stem: str
    root: str | Path | None = None
    hub: str | None = None
    subset: str | None = None

    def __str__(self) -> str:
        return f"{self.hub}:{self.stem}" if self.root is None else str(self._file)

    @property
    def _file(self) -> Path:
        return Path(str(self.root)).expanduser() / self.name / f"{self.stem}.parquet"

    def identity(self, columns: Sequence[str]) -> str:
        """Return a hash of the contents: of the file, or of the columns of what the hub gives.

        Raises:
            DataError: there is no such data.

        """
        if self.root is None:
            table = self.table()
            known = [column for column in columns if column in table.column_names]
            return hashlib.sha256(repr(table.select(known).to_pydict()).encode()).hexdigest()
        with self._existing().open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def table(self) -> Any:
        """Return all rows as a `pyarrow.Table`.

        Raises:
            DataError: the folder, the file or the network is missing, or the file is damaged.

        """
        return self._from_hub() if self.root is None else self._from_file()

    def _from_file(self) -> Any:
        import pyarrow
        from pyarrow import parquet

        try:
            return parquet.read_table(self._existing())
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{self} is not a readable Parquet file; download or copy it again.") from error

    def _existing(self) -> Path:
        """Return the file, or say what is missing and what is there instead."""
        file, root = self._file, Path(str(self.root)).expanduser()
        if not root.is_dir():
            raise DataError(f"There is no data folder {root}; give data.root=DIR, where DIR/{self.name} has the files.")
        if not file.parent.is_dir():
            names = sorted(path.name for path in root.iterdir() if path.is_dir())
            raise DataError(f"There is no data set '{self.name}' in {root}. {hint(self.name, names)}")
        if not file.is_file():
            names = sorted(path.stem for path in file.parent.glob("*.parquet"))
            raise DataError(f"There is no {file.name} in {file.parent}. {hint(self.stem, names)}")
        return file

    def _from_hub(self) -> Any:
        if self.hub is None:
            raise DataError(
                f"Data set '{self.name}' is not on the hub; give data.root=DIR, with DIR/{self.name} in it."
            )
        import datasets

        try:
            return datasets.load_dataset(self.hub, self.subset, split=self.stem).with_format("arrow")[:]
        except Exception as error:  # the hub's client raises a dozen unrelated kinds
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise DataError(
                f"Cannot get '{self.hub}' from the Hugging Face hub ({reason}); give data.root=DIR, a folder with"
                f" {self.name}/{self.stem}.parquet in it."
            ) from error


def check_columns(table: Any, source: Source, columns: Sequence[str]) -> None:
    """Refuse a `pyarrow.Table` without rows, or without one of the columns that are to be read.

    Raises:
        DataError: naming the column that is most like the missing one.

    """
    if table.num_rows == 0:
        raise DataError(f"{source} has no rows.")
    for column in columns:
        if column not in table.column_names:
            raise DataError(f"{source} has no column '{column}'. {hint(column, table.column_names)}")


def columns_of(
    table: Any,
    source: Source,
    text: Sequence[str],
    label: str | Sequence[str],
    num_labels: int,
    multilabel: bool = False,
) -> Any:
    """Return (one list of texts per column, labels), checked; `multilabel` as in `label_matrix`.

    Raises:
        DataError: a text that is none, or a label outside 0 … num_labels - 1.

    """
    labels = label_matrix if multilabel else _labels
    return [_texts(table, source, column) for column in text], labels(table, source, label, num_labels)


def _texts(table: Any, source: Source, column: str) -> list[str]:
    texts = table.column(column).to_pylist()
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"{source}, column '{column}', row {row} holds {text!r} where a text should be.")
    return texts


def _labels(table: Any, source: Source, column: Any, num_labels: int) -> np.ndarray:
    values = table.column(column).to_pylist()
    for row, value in enumerate(values):
        if not isinstance(value, int) or not 0 <= value < num_labels:
            raise DataError(
                f"{source}, column '{column}', row {row} holds {value!r} where a label from 0 to {num_labels - 1}"
                f" should be (num_labels={num_labels})."
            )
    return np.array(values, dtype=np.int64)
