"""Augmentations of token rows: each a pure function of the tokens of one text and of a random generator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from kd_lightning.core.errors import DataError


class Augmentation:
    """Changes the tokens of one text at random. Subclasses write `change`, and keep their options as attributes.

    Meant for distillation: a teacher labels the changed text anew, so it may mean something else than before. The
    batch's hard label stays that of the unchanged text; give the hard-label term a weight only where that is what you
    want.

    Args:
        share: share of texts that are changed, from 0 to 1. The two texts of a pair count one by one.

    Raises:
        DataError: if `share` is not from 0 to 1; when called, if a subclass leaves nothing of a text.

    Example:
        >>> class Reverse(Augmentation):
        ...     def change(self, tokens, random):
        ...         return tokens[::-1]
        >>> Reverse()(np.array([5, 6, 7]), np.random.default_rng(0)).tolist()
        [7, 6, 5]

    """

    key: ClassVar[str | None] = None
    """What the class is called in fingerprints, wherever it is moved; None: its module and name."""

    def __init__(self, share: float = 1.0) -> None:
        check_probability("share", share)
        self.share = share

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    def __call__(self, tokens: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return the new tokens of a text (m,) of its tokens (n,), special ones left out; m > 0 where n > 0."""
        if not len(tokens) or random.random() >= self.share:
            return tokens
        changed = self.change(tokens, random)
        if not len(changed):
            raise DataError(f"{self!r} left nothing of a text of {len(tokens)} tokens; it must keep at least one.")
        return changed

    def change(self, tokens: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return the new tokens of a text that has at least one; `tokens` itself is not to be changed."""
        raise NotImplementedError

    def bind(self, tokenizer: Any) -> Augmentation:
        """Return the augmentation with the ids of this tokenizer; most need none."""
        return self


def check_probability(name: str, value: float) -> None:
    """Check a number from 0 to 1.

    Raises:
        DataError: if it is not.

    """
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DataError(f"Expected argument `{name}` to be from 0 to 1 but got {value!r}.")


def distribution(name: str, p: Sequence[float], size: int) -> tuple[float, ...]:
    """Return probabilities as a tuple, checked.

    Raises:
        DataError: if there is another number of them, a negative one, or a sum other than 1.

    """
    values = tuple(float(value) for value in p)
    if len(values) != size or min(values) < 0 or abs(sum(values) - 1) > 1e-6:
        raise DataError(f"Expected argument `{name}` to be {size} probabilities that sum to 1 but got {list(values)}.")
    return values


def cumulated(p: Sequence[float]) -> np.ndarray:
    """Return the distribution function: `searchsorted(draw, side="right")` in it picks by probability."""
    total = np.cumsum(p)
    return total / total[-1]


class Mask(Augmentation):
    """Replaces each token by the mask token with probability p (Tang et al. 2019, 1903.12136, section 3.3).

    TextBrewer's `masking` does the same on lists; a NumPy array it changes in place, although it promises a new one.

    Args:
        p: probability of each token.
        token: a token or its id to put there; None for the tokenizer's mask token.
        share: share of texts that are changed.

    Raises:
        DataError: if `p` or `share` is not from 0 to 1; in `bind`, if the tokenizer has no such token.

    Example:
        >>> Mask(0.5, token=103)(np.array([5, 6, 7, 8]), np.random.default_rng(0)).tolist()
        [103, 103, 103, 8]

    """

    key = "kd_lightning.data.augment.thin.Mask"

    def __init__(self, p: float = 0.1, token: str | int | None = None, share: float = 1.0) -> None:
        super().__init__(share)
        check_probability("p", p)
        self.p = p
        self.token = token

    def change(self, tokens: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return as many tokens, some of them masked."""
        if not isinstance(self.token, int):
            raise DataError(f"{self!r} does not know the id of its token: give the id, or call bind(tokenizer) first.")
        return np.where(random.random(len(tokens)) < self.p, self.token, tokens)

    def bind(self, tokenizer: Any) -> Mask:
        """Return the same with the token's id."""
        return Mask(self.p, self._id(tokenizer), self.share)

    def _id(self, tokenizer: Any) -> int:
        if self.token is None and tokenizer.mask_token_id is None:
            unknown = tokenizer.unk_token
            raise DataError(
                "Mask needs a mask token, and this tokenizer has none: name one of its tokens with `token`"
                + (f", such as token='{unknown}'." if unknown else ".")
            )
        if self.token is None:
            return int(tokenizer.mask_token_id)
        vocabulary = tokenizer.get_vocab()
        found = vocabulary.get(self.token) if isinstance(self.token, str) else self.token
        if found is None or not 0 <= found < len(tokenizer):
            raise DataError(f"Mask has token={self.token!r}, which is none of the tokenizer's {len(tokenizer)} tokens.")
        return int(found)


class Delete(Augmentation):
    """Deletes each token with probability p; where all would go, one of them stays.

    TextBrewer's `deleting` may return nothing at all.

    Args:
        p: probability of each token.
        share: share of texts that are changed.

    Raises:
        DataError: if `p` or `share` is not from 0 to 1.

    Example:
        >>> Delete(0.5)(np.array([5, 6, 7, 8]), np.random.default_rng(2)).tolist()
        [6, 8]

    """

    key = "kd_lightning.data.augment.thin.Delete"

    def __init__(self, p: float = 0.1, share: float = 1.0) -> None:
        super().__init__(share)
        check_probability("p", p)
        self.p = p

    def change(self, tokens: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return the tokens that stay, in their order."""
        keep = random.random(len(tokens)) >= self.p
        if not keep.any():
            keep[random.integers(len(tokens))] = True
        return tokens[keep]


class NGramSample(Augmentation):
    """Keeps one span of a text and drops the rest (Tang et al. 2019, 1903.12136, section 3.3).

    The length is drawn from `lengths` with probabilities `p`, the place evenly. A text that is shorter than the length
    stays whole; TextBrewer's `n_gram_sampling` fails there. Nothing but spans is left of the training texts unless
    `share` is below one; Tang et al. change a quarter of them.

    Args:
        lengths: numbers of tokens to choose from.
        p: their probabilities; None for equal ones.
        share: share of texts that are changed.

    Raises:
        DataError: if a length is below one, or `p` or `share` are no probabilities.

    Example:
        >>> NGramSample(lengths=[2])(np.array([5, 6, 7, 8]), np.random.default_rng(0)).tolist()
        [5, 6]

    """

    key = "kd_lightning.data.augment.thin.NGramSample"

    def __init__(
        self, lengths: Sequence[int] = (1, 2, 3, 4, 5), p: Sequence[float] | None = None, share: float = 1.0
    ) -> None:
        super().__init__(share)
        lengths = tuple(lengths)
        if not lengths or not all(isinstance(length, int) and length > 0 for length in lengths):
            raise DataError(f"Expected argument `lengths` to be numbers of tokens, from 1, but got {list(lengths)}.")
        self.lengths = lengths
        self.p = distribution("p", [1 / len(lengths)] * len(lengths) if p is None else p, len(lengths))

    def change(self, tokens: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return a span of the tokens."""
        drawn = int(np.searchsorted(cumulated(self.p), random.random(), side="right"))
        length = min(self.lengths[drawn], len(tokens))
        start = random.integers(len(tokens) - length + 1)
        return tokens[start : start + length]


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
        DataError: if `p` is not five probabilities, or `share` not from 0 to 1.

    Example:
        >>> ShortReorder(p=[0, 0, 0, 1, 0])(np.array([5, 6, 7, 8]), np.random.default_rng(0)).tolist()
        [7, 5, 6, 8]

    """

    key = "kd_lightning.data.augment.reorder.ShortReorder"

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
        DataError: if `p` or `share` is not from 0 to 1, or `length` is not positive.

    Example:
        >>> LongReorder(p=1.0, length=0.4)(np.arange(11), np.random.default_rng(0)).tolist()
        [2, 3, 0, 1, 6, 7, 4, 5, 8, 9, 10]

    """

    key = "kd_lightning.data.augment.reorder.LongReorder"

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
