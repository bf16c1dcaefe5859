"""What every augmentation is: a pure function of the tokens of one text and of a random generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kd_lightning.core.errors import DataError


class Augmentation:
    """Changes the tokens of one text at random. Subclasses write `change`, and keep their options as attributes.

    Meant for distillation: a teacher labels the changed text anew, so it may mean something else than before. The
    batch's hard label stays that of the unchanged text; give the hard-label term a weight only where that is what you
    want.

    Args:
        share: share of texts that are changed, from 0 to 1; the others pass as they are. The two texts of a pair count
            one by one.

    Raises:
        DataError: a share that is none; a subclass that leaves nothing of a text.

    Example:
        >>> class Reverse(Augmentation):
        ...     def change(self, tokens, random):
        ...         return tokens[::-1]
        >>> Reverse()(np.array([5, 6, 7]), np.random.default_rng(0)).tolist()
        [7, 6, 5]

    """

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
        """Return what to use with this tokenizer; most need nothing of it."""
        return self


def check_probability(name: str, value: float) -> None:
    """Check a number from 0 to 1.

    Raises:
        DataError: it is none.

    """
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DataError(f"Expected argument `{name}` to be from 0 to 1 but got {value!r}.")


def distribution(name: str, p: Sequence[float], size: int) -> tuple[float, ...]:
    """Return probabilities as a tuple, checked.

    Raises:
        DataError: another number of them, a negative one, or a sum other than 1.

    """
    values = tuple(float(value) for value in p)
    if len(values) != size or min(values) < 0 or abs(sum(values) - 1) > 1e-6:
        raise DataError(f"Expected argument `{name}` to be {size} probabilities that sum to 1 but got {list(values)}.")
    return values


def cumulated(p: Sequence[float]) -> np.ndarray:
    """Return the distribution function: `searchsorted(draw, side="right")` in it picks by probability."""
    total = np.cumsum(p)
    return total / total[-1]
