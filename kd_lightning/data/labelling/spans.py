"""Where a sentence that is longer than a row is cut, and which row speaks for which word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

Span: TypeAlias = tuple[int, int]
"""First word of a row, and the first word after it."""

OVERLAP = 4  # a row repeats at most one part in so many of the row before it


def spans(pieces: Sequence[int] | np.ndarray, room: int) -> list[Span]:
    """Cut a sentence into rows at word boundaries; rows overlap, and the last one begins early enough to be full.

    Args:
        pieces: how many word pieces each word has; no word has more than `room`.
        room: word pieces per row at most.

    Returns:
        The words of each row; one row where the sentence fits.

    Example:
        >>> spans([1, 1, 2, 1], room=8), spans([1] * 9, room=4)
        ([(0, 4)], [(0, 4), (3, 7), (5, 9)])

    """
    ends = np.concatenate([[0], np.cumsum(pieces, dtype=np.int64)])
    words, first, found = len(pieces), 0, []
    while ends[first] + room < ends[-1]:
        last = int(np.searchsorted(ends, ends[first] + room, side="right")) - 1
        found.append((first, last))
        overlap = min(room // OVERLAP, room - int(pieces[last]))  # the next word fits too
        first = int(np.searchsorted(ends, ends[last] - overlap))
    return [*found, (int(np.searchsorted(ends, ends[-1] - room)) if found else 0, words)]


def owners(rows: Sequence[Span], words: int) -> np.ndarray:
    """Return which row speaks for each word: the one where it is farthest from the nearer end, the first of equals.

    Args:
        rows: the words of each row, together all words.
        words: number of words.

    Returns:
        (words,), numbers of rows.

    Example:
        >>> owners([(0, 4), (2, 7)], words=7).tolist()
        [0, 0, 0, 1, 1, 1, 1]

    """
    word = np.arange(words)
    context = np.stack([np.minimum(word - first, last - 1 - word) for first, last in rows])
    return context.argmax(axis=0)
