"""Rows that are stored already, and what they looked like."""

from __future__ import annotations

from array import array

import numpy as np

from kd_lightning.core.errors import CacheError
from kd_lightning.teachers.cache.row_fingerprints import Marks


class Seen:
    """Knows each row by its number, and notices another one of the same number.

    Example:
        >>> seen = Seen()
        >>> marks = Marks(np.array([11, 12]), np.zeros((2, 4), np.float32))
        >>> seen.add(np.array([5, 6]), marks)
        >>> len(seen), seen.missing(np.array([6, 7, 7]), Marks(np.array([12, 13, 13]), np.zeros((3, 4), np.float32)))
        (2, [1])

    """

    def __init__(self) -> None:
        self._place: dict[int, int] = {}
        self._hashes, self._sketches = array("q"), array("f")  # plain numbers: there may be millions of rows
        self._width = 1

    def __len__(self) -> int:
        return len(self._place)

    def add(self, ids: np.ndarray, marks: Marks) -> None:
        """Take up rows that are new."""
        self._place.update(zip(ids.tolist(), range(len(self), len(self) + len(ids)), strict=True))
        self._hashes.frombytes(np.ascontiguousarray(marks.hashes, np.int64).tobytes())
        self._sketches.frombytes(np.ascontiguousarray(marks.sketches, np.float32).tobytes())
        self._width = marks.sketches.shape[1]

    def missing(self, ids: np.ndarray, marks: Marks) -> list[int]:
        """Return the places in a batch of rows that are new, each row once.

        Raises:
            CacheError: a row has the number of another one.

        """
        first: dict[int, int] = {}
        for place, row in enumerate(ids.tolist()):
            first.setdefault(row, place)
        twins = [(place, first[row]) for place, row in enumerate(ids.tolist()) if first[row] != place]
        _check_same(ids, marks, [place for place, _ in twins], marks.at([twin for _, twin in twins]))
        known = [place for row, place in first.items() if row in self._place]
        _check_same(ids, marks, known, self._marks([self._place[int(ids[place])] for place in known]))
        return [place for row, place in first.items() if row not in self._place]

    def _marks(self, places: list[int]) -> Marks:
        sketches = np.frombuffer(self._sketches, np.float32).reshape(-1, self._width)
        return Marks(np.frombuffer(self._hashes, np.int64)[places], sketches[places])


def _check_same(ids: np.ndarray, marks: Marks, places: list[int], others: Marks) -> None:
    if not places:
        return
    if (changed := marks.at(places).differ(others)).any():
        raise CacheError(
            f"Row {ids[places][changed][0]} (its sample_id) came twice and looked different: the number must be of one "
            "row among all in a cache, and rows must not be augmented at random. Give each data set, or task, a cache "
            "of its own."
        )
