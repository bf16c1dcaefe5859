"""Tokenised rows without padding, as flat arrays: in memory, or mapped from disk; by one tokenizer, or by two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
from torch.utils.data import Dataset

from kd_lightning.core.errors import DataError

ALL = "names"
"""The file that has the names of all others, so that a missing one is noticed."""


class TokenRows(Dataset[dict[str, Any]]):
    """Rows of tokens, end to end in one array per field, with the values each row has one of.

    A slice of a flat array is a row; no row is an object, so epochs of many short rows are read fast and several
    processes share one copy of the file.

    Args:
        fields: `input_ids` and, where there are any, `token_type_ids`, a label per token, `logits_mask`: (tokens of
            all rows,).
        offsets: (rows + 1,): row i lies from offsets[i] to offsets[i + 1].
        values: `labels`, `start_positions` and the like by name: (rows,), or (rows, labels) where each label is there
            or not.
        notes: arrays that are kept with the rows and never enter a batch, such as where each token lies in its text.

    Raises:
        DataError: if the arrays do not fit together.

    Example:
        >>> ids, offsets = np.array([5, 6, 7]), np.array([0, 1, 3])
        >>> rows = TokenRows({"input_ids": ids}, offsets, {"labels": np.array([0, 1])})
        >>> len(rows), rows.lengths.tolist(), rows[1]["input_ids"].tolist(), int(rows[1]["labels"])
        (2, [1, 2], [6, 7], 1)

    """

    def __init__(
        self,
        fields: Mapping[str, np.ndarray],
        offsets: np.ndarray,
        values: Mapping[str, np.ndarray],
        notes: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.fields = dict(fields)
        self.offsets = offsets
        self.values = dict(values)
        self.notes = dict(notes or {})
        if any(len(flat) != offsets[-1] for flat in self.fields.values()):
            raise DataError(f"Token arrays do not fit {offsets[-1]} tokens.")
        if any(len(value) != len(self) for value in self.values.values()):
            raise DataError(f"What rows have one of ({', '.join(self.values)}) does not fit {len(self)} rows.")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> dict[str, Any]:
        values = {name: value[row] for name, value in self.values.items()}
        return self.tokens(row) | values | {"sample_id": int(row)}

    def tokens(self, row: int) -> dict[str, Any]:
        """Return the token fields of a row."""
        tokens = slice(self.offsets[row], self.offsets[row + 1])
        return {name: flat[tokens] for name, flat in self.fields.items()}

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each row."""
        return np.diff(self.offsets)

    def save(self, folder: Path) -> None:
        """Write one `.npy` per array into an existing folder."""
        parts = {"field": self.fields, "value": self.values, "note": self.notes, "rows": {"offsets": self.offsets}}
        arrays = {f"{part}.{name}": array for part, named in parts.items() for name, array in named.items()}
        for name, array in (arrays | {ALL: np.array(sorted(arrays))}).items():
            _save(folder / f"{name}.npy", array)

    @classmethod
    def open(cls, folder: Path) -> TokenRows:
        """Map what `save` wrote, without reading it.

        Raises:
            DataError: if a file is missing or damaged.

        """
        parts: dict[str, dict[str, np.ndarray]] = {"field": {}, "value": {}, "note": {}, "rows": {}}
        try:
            for file in np.load(folder / f"{ALL}.npy").tolist():
                part, _, name = file.partition(".")
                parts[part][name] = np.load(folder / f"{file}.npy", mmap_mode="r")
            return cls(parts["field"], parts["rows"]["offsets"], parts["value"], parts["note"])
        except (OSError, EOFError, ValueError, KeyError, DataError) as error:
            raise DataError(f"The tokenised data in {folder} is damaged; delete that folder and run again.") from error


def _save(path: Path, array: np.ndarray) -> None:
    """Write an array as `np.save` does, which says nothing of a disk that becomes full: by Python's own writes."""
    with path.open("wb") as file:
        np.lib.format.write_array(SimpleNamespace(write=file.write), array, allow_pickle=False)


class DualTokenizedRows(Dataset[dict[str, Any]]):
    """The same texts tokenised twice, for a student and a teacher with tokenizers of their own.

    Args:
        student: tokens by the student's tokenizer, with the labels.
        teacher: tokens by the teacher's.

    Raises:
        DataError: if the numbers of rows differ.

    Example:
        >>> def rows(ids):
        ...     return TokenRows({"input_ids": np.array(ids)}, np.array([0, len(ids)]), {"labels": np.array([1])})
        >>> pair = DualTokenizedRows(rows([5, 6]), rows([7]))
        >>> pair[0]["student"]["input_ids"].tolist(), int(pair[0]["labels"]), pair.lengths.tolist()
        ([5, 6], 1, [2])

    """

    def __init__(self, student: TokenRows, teacher: TokenRows) -> None:
        if len(student) != len(teacher):
            raise DataError(f"Student and teacher must have the same rows, but have {len(student)} and {len(teacher)}.")
        self.student = student
        self.teacher = teacher

    def __len__(self) -> int:
        return len(self.student)

    def __getitem__(self, row: int) -> dict[str, Any]:
        own = self.student[row]
        shared = {name: own.pop(name) for name in (*self.student.values, "sample_id")}
        return {"student": own, "teacher": self.teacher.tokens(row), **shared}

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of the longer of the two, of each row."""
        return np.maximum(self.student.lengths, self.teacher.lengths)

    def save(self, folder: Path) -> None:
        """Write both into an existing folder."""
        for name, rows in (("student", self.student), ("teacher", self.teacher)):
            (folder / name).mkdir()
            rows.save(folder / name)

    @classmethod
    def open(cls, folder: Path) -> DualTokenizedRows:
        """Map what `save` wrote, without reading it.

        Raises:
            DataError: if a file is missing or damaged.

        """
        return cls(TokenRows.open(folder / "student"), TokenRows.open(folder / "teacher"))


Rows: TypeAlias = TokenRows | DualTokenizedRows


def stacked(parts: Sequence[Rows]) -> Rows:
    """Return rows end to end, without their notes.

    Example:
        >>> part = TokenRows({"input_ids": np.array([5, 6])}, np.array([0, 2]), {"labels": np.array([1])})
        >>> rows = stacked([part, part])
        >>> rows.lengths.tolist(), rows[1]["input_ids"].tolist()
        ([2, 2], [5, 6])

    """
    paired = [part for part in parts if isinstance(part, DualTokenizedRows)]
    if paired:
        return DualTokenizedRows(
            *(_stacked([getattr(part, role) for part in paired]) for role in ("student", "teacher"))
        )
    return _stacked([part for part in parts if isinstance(part, TokenRows)])


def _stacked(parts: Sequence[TokenRows]) -> TokenRows:
    fields = {name: np.concatenate([part.fields[name] for part in parts]) for name in parts[0].fields}
    values = {name: np.concatenate([part.values[name] for part in parts]) for name in parts[0].values}
    lengths = np.concatenate([part.lengths for part in parts])
    return TokenRows(fields, np.concatenate([[0], np.cumsum(lengths)]), values)
