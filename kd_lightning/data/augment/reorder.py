"""Augmentations that keep every token and change the order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from kd_lightning.core.errors import DataError
from kd_lightning.data.augment.base import Augmentation, check_probability, cumulated, distribution

PATTERNS = ((0,), (1, 0), (2, 1, 0), (2, 0, 1), (1, 2, 0))  # abc stays, bac, cba, cab, bca


class ShortReorder(Augmentation):
    """Goes through a text and reorders two or three neighbours here and there.

    At each place one of five things happens to the tokens `abc` that begin there, with the probabilities `p`:
    `abc` (go on with b), `bac` (go on with c), `cba`, `cab` or `bca` (go on behind them). A pattern that is longer than
    what is left of the text does nothing; TextBrewer's `short_disorder` swaps the last two tokens then, whatever was
    drawn, which is the same for its default probabilities.

    Args:
        p: the five probabilities.
        share: share of texts that are changed.

    Raises:
        DataError: no five probabilities, or a share that is none.

    Example:
        >>> ShortReorder(p=[0, 0, 0, 1, 0])(np.array([5, 6, 7, 8]), np.random.default_rng(0)).tolist()
        [7, 5, 6, 8]

    """

    def __init__(self, p: Sequence[float] = (0.9, 0.1, 0.0, 0.0, 0.0), share: float = 1.0) -> None:
        super().__init__(share)
        self.p = distribution("p", p, len(PATTERNS))

    def change(self, tokens: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return the same tokens in another order."""
        drawn = np.searchsorted(cumulated(self.p), random.random(len(tokens)), side="right")
        return tokens[list(self._order(len(tokens), iter(drawn.tolist())))]

    @staticmethod
    def _order(size: int, drawn: Iterator[int]) -> Iterator[int]:
        place = 0
        while place < size:
            pattern = PATTERNS[next(drawn)]
            if place + len(pattern) > size:
                pattern = PATTERNS[0]
            yield from (place + step for step in pattern)
            place += len(pattern)


class LongReorder(Augmentation):
    """Goes through a text and, with probability p at each place, swaps the halves of the span that begins there.

    After a swap it goes on behind the span, else with the next token. A text shorter than the span stays as it is.
    TextBrewer's `long_disorder` loses tokens of NumPy arrays, never ends for p = 1 where a relative length comes to no
    token at all, and does nothing where it comes to an odd whole text.

    Args:
        p: probability at each place.
        length: of the span: a number of tokens above 1, or a share of the text up to 1; rounded down, then up to an
            even number, and a share to at least two tokens of a text that has them.
        share: share of texts that are changed.

    Raises:
        DataError: `p` or `share` is no probability, or `length` is not positive.

    Example:
        >>> LongReorder(p=1.0, length=0.4)(np.arange(11), np.random.default_rng(0)).tolist()
        [2, 3, 0, 1, 6, 7, 4, 5, 8, 9, 10]

    """

    def __init__(self, p: float = 0.1, length: float = 20, share: float = 1.0) -> None:
        super().__init__(share)
        check_probability("p", p)
        if not isinstance(length, int | float) or not 0 < length < float("inf"):
            raise DataError(f"Expected argument `length` to be tokens, or a share up to 1, but got {length!r}.")
        self.p = p
        self.length = length

    def change(self, tokens: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return the same tokens in another order."""
        half = self._half(len(tokens))
        order = list(range(len(tokens)))
        draws = iter((random.random(len(tokens)) < self.p).tolist())
        place = 0
        while half and place + 2 * half <= len(order):
            if next(draws):
                middle, end = place + half, place + 2 * half
                order[place:end] = order[middle:end] + order[place:middle]
                place = end
            else:
                place += 1
        return tokens[order]

    def _half(self, size: int) -> int:
        """Return half of the span, in tokens."""
        if self.length > 1:
            return (int(self.length) + 1) // 2
        return min(max((int(size * self.length) + 1) // 2, 1), size // 2)
