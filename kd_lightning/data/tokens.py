"""Tokenised rows without padding, as flat arrays: in memory, or mapped from disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from kd_lightning.errors import DataError


class TokenRows(Dataset[dict[str, Any]]):
    """Rows of token ids, end to end in one array per field, with a label each.

    A slice of a flat array is a row; no row is an object, so epochs of many short rows are read fast and several
    processes share one copy of the file.

    Args:
        fields: `input_ids` and, where the tokenizer makes them, `token_type_ids`: (tokens of all rows,).
        offsets: (rows + 1,): row i lies from offsets[i] to offsets[i + 1].
        labels: (rows,), or (rows, labels) where each label is there or not.

    Example:
        >>> rows = TokenRows({"input_ids": np.array([5, 6, 7])}, offsets=np.array([0, 1, 3]), labels=np.array([0, 1]))
        >>> len(rows), rows.lengths.tolist(), rows[1]["input_ids"].tolist(), rows[1]["labels"]
        (2, [1, 2], [6, 7], 1)

    """

    def __init__(self, fields: Mapping[str, np.ndarray], offsets: np.ndarray, labels: np.ndarray) -> None:
        self.fields = dict(fields)
        self.offsets = offsets
        self.labels = labels
        if len(offsets) != len(labels) + 1 or any(len(flat) != offsets[-1] for flat in self.fields.values()):
            raise DataError(f"Token arrays do not fit {len(labels)} labels and {len(offsets)} offsets.")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        labels = self.labels[row]
        return self.tokens(row) | {"labels": labels if labels.ndim else int(labels), "sample_id": int(row)}

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
        arrays = self.fields | {"offsets": self.offsets, "labels": self.labels}
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)

    @classmethod
    def open(cls, folder: Path) -> TokenRows:
        """Map what `save` wrote, without reading it.

        Raises:
            DataError: a file is missing or damaged.

        """
        try:
            arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
            return cls(offsets=arrays.pop("offsets"), labels=arrays.pop("labels"), fields=arrays)
        except (OSError, ValueError, KeyError, DataError) as error:
            raise DataError(f"The tokenised data in {folder} is damaged; delete that folder and run again.") from error
