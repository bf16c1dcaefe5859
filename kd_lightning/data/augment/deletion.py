"""Augmentations that leave something out: tokens are masked, deleted, or all but a short span."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kd_lightning.core.errors import DataError
from kd_lightning.data.augment.base import Augmentation, check_probability, cumulated, distribution


class Mask(Augmentation):
    """Replaces each token by the mask token with probability p (Tang et al. 2019, 1903.12136, section 3.3).

    TextBrewer's `masking` does the same on lists; a NumPy array it changes in place, although it promises a new one.

    Args:
        p: probability of each token.
        token: a token or its id to put there; None for the tokenizer's mask token.
        share: share of texts that are changed.

    Raises:
        DataError: `p` or `share` is no probability; in `bind`, the tokenizer has no such token.

    Example:
        >>> Mask(0.5, token=103)(np.array([5, 6, 7, 8]), np.random.default_rng(0)).tolist()
        [103, 103, 103, 8]

    """

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
        DataError: `p` or `share` is no probability.

    Example:
        >>> Delete(0.5)(np.array([5, 6, 7, 8]), np.random.default_rng(2)).tolist()
        [6, 8]

    """

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
        DataError: lengths below one, probabilities that do not fit them, or a share that is none.

    Example:
        >>> NGramSample(lengths=[2])(np.array([5, 6, 7, 8]), np.random.default_rng(0)).tolist()
        [5, 6]

    """

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
