"""What splits are called, and batches that say which one they are of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

SPLITS = ("train", "validation", "test", "mismatched")
"""What a split may be called; MNLI has a second validation split, of other kinds of text, which is `mismatched`."""
OTHER_SPLITS = SPLITS[2:]
"""What is evaluated beside the validation split, where a data set has it."""

Collate: TypeAlias = Callable[[list[Any]], dict[str, Any]]
"""What makes a batch of a list of rows."""


def of_split(collate: Collate, split: str) -> Collate:
    """Return what makes batches of a split; of the usual one they are as they are, and all their fields tensors."""
    return collate if split == "validation" else OfSplit(collate, split)


class OfSplit:
    """Makes batches that say which split they are of, in the field `split`.

    Args:
        collate: makes the batches.
        split: its name.

    """

    def __init__(self, collate: Collate, split: str) -> None:
        self.collate = collate
        self.split = split

    def __call__(self, rows: list[Any]) -> dict[str, Any]:
        """Return the batch of `rows`."""
        return {**self.collate(rows), "split": self.split}
