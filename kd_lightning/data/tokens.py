"""Tokenised rows without padding, as flat arrays: in memory, or mapped from disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from kd_lightning.core.errors import DataError

ALL = "names"
"""The file that has the names of all others, so that a missing one is missed."""


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
        DataError: arrays that do not fit together.

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
            np.save(folder / f"{name}.npy", array, allow_pickle=False)

    @classmethod
    def open(cls, folder: Path) -> TokenRows:
        """Map what `save` wrote, without reading it.

        Raises:
            DataError: a file is missing or damaged.

        """
        parts: dict[str, dict[str, np.ndarray]] = {"field": {}, "value": {}, "note": {}, "rows": {}}
        try:
            for file in np.load(folder / f"{ALL}.npy").tolist():
                part, _, name = file.partition(".")
                parts[part][name] = np.load(folder / f"{file}.npy", mmap_mode="r")
            return cls(parts["field"], parts["rows"]["offsets"], parts["value"], parts["note"])
        except (OSError, ValueError, KeyError, DataError) as error:
            raise DataError(f"The tokenised data in {folder} is damaged; delete that folder and run again.") from error
