"""Rows of different lengths → one rectangular batch."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from kd_lightning.core.errors import DataError
from kd_lightning.functional.hard_label import IGNORED

POSITIONS = ("start_positions", "end_positions")
"""What counts tokens from the beginning of a row, and so moves where padding goes before it."""

LIKE_TOKENS = {"labels": IGNORED, "logits_mask": 0, "word_ids": -1}
"""What fields that a tokenizer does not make are padded with."""


class Padding:
    """Collate rows into a batch, padded to the longest of them.

    Makes `input_ids`, `attention_mask` (1 on tokens, 0 on padding), other token fields the rows have, int64: (batch,
    length); and what a row has one of, `labels`, `start_positions`, `sample_id` and the like, in its own type:
    (batch,), or (batch, labels).

    Args:
        values: what each token field is padded with; any other field of a row is taken for a value of the row.
        side: where padding goes.
        multiple_of: round the length up to a multiple, which suits tensor cores (8) and compiled models (64).

    Raises:
        DataError: `side` or `multiple_of` makes no sense.

    Example:
        >>> rows = [{"input_ids": [5, 6], "labels": 1, "sample_id": 7}, {"input_ids": [8], "labels": 0, "sample_id": 9}]
        >>> batch = Padding({"input_ids": 0}, side="left")(rows)
        >>> batch["input_ids"].tolist(), batch["attention_mask"].tolist(), batch["sample_id"].tolist()
        ([[5, 6], [0, 8]], [[1, 1], [0, 1]], [7, 9])

    """

    def __init__(
        self, values: Mapping[str, int], side: Literal["right", "left"] = "right", multiple_of: int | None = None
    ) -> None:
        if side not in ("right", "left"):
            raise DataError(f"Padding goes to the right or to the left; got side={side!r}.")
        if multiple_of is not None and multiple_of < 1:
            raise DataError(f"pad_to_multiple_of must be at least 1; got {multiple_of}.")
        self.values = dict(values)
        self.side = side
        self.multiple_of = multiple_of or 1

    @classmethod
    def of(cls, tokenizer: Any, multiple_of: int | None = None, fields: Sequence[str] = ()) -> Padding:
        """Pad as a transformers tokenizer would.

        Args:
            tokenizer: whose padding token and side count.
            multiple_of: as above.
            fields: of `LIKE_TOKENS`, those that are of tokens here.

        Raises:
            DataError: the tokenizer has no padding token.

        """
        if tokenizer.pad_token_id is None:
            raise DataError(
                f"{type(tokenizer).__name__} has no padding token; set tokenizer.pad_token, perhaps to its eos_token."
            )
        values = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        values |= {name: LIKE_TOKENS[name] for name in ("word_ids", *fields)}
        return cls(values, side=tokenizer.padding_side, multiple_of=multiple_of)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return the batch of `rows`."""
        mask = self._mask(np.array([len(row["input_ids"]) for row in rows]))
        batch = {name: self._pad(rows, name, mask) for name in self.values if name in rows[0]}
        batch["attention_mask"] = torch.from_numpy(mask.astype(np.int64))
        return batch | self._moved(per_row(rows, self.values), mask)

    def _mask(self, lengths: np.ndarray) -> np.ndarray:
        longest = -(-lengths.max() // self.multiple_of) * self.multiple_of
        places = np.arange(longest) if self.side == "right" else np.arange(longest)[::-1]
        return places < lengths[:, None]

    def _moved(self, values: dict[str, Tensor], mask: np.ndarray) -> dict[str, Tensor]:
        """Let positions count from the beginning of the padded row; what is below 0 is none."""
        before = torch.from_numpy(mask.argmax(1))
        for name in POSITIONS:
            if name in values:
                values[name] = torch.where(values[name] >= 0, values[name] + before, values[name])
        return values

    def _pad(self, rows: Sequence[Mapping[str, Any]], name: str, mask: np.ndarray) -> Tensor:
        out = np.full(mask.shape, self.values[name], dtype=np.int64)
        out[mask] = np.concatenate([row[name] for row in rows])
        return torch.from_numpy(out)


class DualTokenizedPadding:
    """Collate rows of two tokenizers into a batch with two parts, each padded by itself, and their common labels.

    Args:
        student: pads the student's part.
        teacher: pads the teacher's part.

    Example:
        >>> row = {"student": {"input_ids": [5, 6]}, "teacher": {"input_ids": [8]}, "labels": 1, "sample_id": 7}
        >>> batch = DualTokenizedPadding(Padding({"input_ids": 0}), Padding({"input_ids": 0}))([row])
        >>> batch["student"]["input_ids"].tolist(), batch["teacher"]["input_ids"].tolist(), batch["labels"].tolist()
        ([[5, 6]], [[8]], [1])

    """

    def __init__(self, student: Padding, teacher: Padding) -> None:
        self.parts = {"student": student, "teacher": teacher}

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the batch of `rows`."""
        batch: dict[str, Any] = {role: pad([row[role] for row in rows]) for role, pad in self.parts.items()}
        return batch | per_row(rows, self.parts)


def per_row(rows: Sequence[Mapping[str, Any]], others: Container[str]) -> dict[str, Tensor]:
    """Stack what rows have one of, such as their labels and numbers: all but `others`."""
    names = [name for name in rows[0] if name not in others]
    return {name: torch.from_numpy(np.array([row[name] for row in rows])) for name in names}
