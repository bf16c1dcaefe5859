"""From what was predicted row by row back to whole sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

Notes: TypeAlias = Mapping[str, np.ndarray]
"""What `tagged_rows` notes of its rows."""


@dataclass(frozen=True)
class Rebuilt:
    """Sentences with the tags they have and those they were given.

    Args:
        numbers: which sentences of the split they are, in its order.
        gold: the names of each one's tags.
        predicted: the names of the tags they were given, as many.

    """

    numbers: list[int]
    gold: list[list[str]]
    predicted: list[list[str]]


def rebuild(notes: Notes, rows: np.ndarray, tags: np.ndarray, labels: list[str], outside: str) -> Rebuilt:
    """Put sentences together from rows, in whatever order these come.

    A sentence is there if all its rows are. Words that are in no row, as the tokenizer made nothing of them, are
    `outside`; sentences without any row are made of these.

    Args:
        notes: of the split's rows.
        rows: the numbers of those that were predicted; one that comes twice counts once.
        tags: the numbers of the tags they were given, where logits count, row after row.
        labels: the names of the tags.
        outside: the name of the tag of words that are in no row.

    """
    names = np.array(labels, dtype=object)
    given = np.full(len(notes["tags"]), labels.index(outside))
    given[notes["words"][_places(notes["word_offsets"], rows)]] = tags
    numbers = np.flatnonzero(_complete(notes, rows))
    begins, ends = notes["sentences"][:-1][numbers], notes["sentences"][1:][numbers]
    spans = [slice(begin, end) for begin, end in zip(begins, ends, strict=True)]
    sides = (names[side] for side in (np.asarray(notes["tags"]), given))
    gold, predicted = ([side[span].tolist() for span in spans] for side in sides)
    return Rebuilt(numbers.tolist(), gold, predicted)


def sentence_of_row(notes: Notes) -> np.ndarray:
    """Return the number of each row's sentence: (rows,).

    Example:
        >>> notes = {"words": np.array([0, 1, 2, 5]), "word_offsets": np.array([0, 2, 3, 4])}
        >>> sentence_of_row(notes | {"sentences": np.array([0, 3, 3, 6])}).tolist()
        [0, 0, 2]

    """
    first_words = notes["words"][notes["word_offsets"][:-1]]
    return np.searchsorted(notes["sentences"], first_words, side="right") - 1


def _complete(notes: Notes, rows: np.ndarray) -> np.ndarray:
    """Return whether each sentence has all its rows among these."""
    missing = np.ones(len(notes["word_offsets"]) - 1, dtype=bool)
    missing[rows] = False
    complete = np.ones(len(notes["sentences"]) - 1, dtype=bool)
    complete[sentence_of_row(notes)[missing]] = False
    return complete


def _places(offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return all places of some rows in a flat array, row after row."""
    lengths = offsets[rows + 1] - offsets[rows]
    before = np.cumsum(lengths) - lengths
    return np.repeat(offsets[rows] - before, lengths) + np.arange(lengths.sum())
