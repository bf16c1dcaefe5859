"""Rows that are tokenised twice, for a student and a teacher with tokenizers of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from kd_lightning.core.errors import DataError
from kd_lightning.data.tokens import TokenRows


class DualTokenizedRows(Dataset[dict[str, Any]]):
    """The same texts as two tokenizers cut them.

    Args:
        student: what the student eats; its labels are those of the rows.
        teacher: what the teacher eats.

    Raises:
        DataError: for another number of rows.

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
            DataError: a file is missing or damaged.

        """
        return cls(TokenRows.open(folder / "student"), TokenRows.open(folder / "teacher"))
