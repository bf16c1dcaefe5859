"""Mixing each image with another one of the training set: mixup and CutMix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from kd_lightning.core.errors import DataError
from kd_lightning.core.hashing import code_identity
from kd_lightning.data.images.augment import settings_of


class Mixing(ABC):
    """Mixes images with partners. Both models get the mixed image, and labels are mixed by the same shares.

    The share λ of the first image is drawn from Beta(α, α).

    Args:
        alpha: α; small values leave most images nearly as they are, 1 draws all shares alike.

    Raises:
        DataError: if `alpha` is not above 0.

    """

    def __init__(self, alpha: float = 1.0) -> None:
        if not isinstance(alpha, int | float) or not 0 < alpha < float("inf"):
            raise DataError(f"{type(self).__name__}(alpha=…) is a number above 0; got {alpha!r}.")
        self.alpha = alpha

    @abstractmethod
    def draw(self, random: np.random.Generator) -> tuple[float, ...]:
        """Return the parameters of one row, the share λ first."""

    @abstractmethod
    def apply(
        self, images: np.ndarray, partners: np.ndarray, drawn: Sequence[tuple[float, ...]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return mixed images, from 0 to 255, and the share of each first image that was in fact taken.

        Args:
            images: (rows, height, width, 3) uint8.
            partners: the same shape.
            drawn: the parameters of each row.

        Returns:
            (rows, height, width, 3), uint8 or float32; and (rows,).

        """


class Mixup(Mixing):
    """λ times an image plus 1 − λ times its partner. Zhang et al. 2018, 1710.09412.

    Example:
        >>> black, white = np.zeros((1, 1, 1, 3), np.uint8), np.full((1, 1, 1, 3), 255, np.uint8)
        >>> mixed, share = Mixup(0.2).apply(black, white, [(0.25,)])
        >>> mixed[0, 0, 0].tolist(), share.tolist()
        ([191.25, 191.25, 191.25], [0.25])

    """

    def draw(self, random: np.random.Generator) -> tuple[float, ...]:
        """Return λ."""
        return (random.beta(self.alpha, self.alpha),)

    def apply(
        self, images: np.ndarray, partners: np.ndarray, drawn: Sequence[tuple[float, ...]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums, float32, and λ."""
        share = np.array([own for (own,) in drawn], dtype=np.float32)
        own = share[:, None, None, None]
        return own * images + (1 - own) * partners, share


class CutMix(Mixing):
    """A rectangle of the partner pasted over an image; λ is the part that is left of it. Yun et al. 2019, 1905.04899.

    The rectangle has the image's proportions and a centre anywhere in it, so that what lies outside is cut off: λ is
    then corrected.

    Example:
        >>> black, white = np.zeros((1, 2, 2, 3), np.uint8), np.full((1, 2, 2, 3), 255, np.uint8)
        >>> mixed, share = CutMix().apply(black, white, [(0.75, 0.0, 0.0)])
        >>> mixed[0, :, :, 0].tolist(), share.tolist()
        ([[255, 0], [0, 0]], [0.75])

    """

    def draw(self, random: np.random.Generator) -> tuple[float, ...]:
        """Return λ, and the height and place of the rectangle's centre as shares of the image's sides."""
        return (random.beta(self.alpha, self.alpha), *random.random(2).tolist())

    def apply(
        self, images: np.ndarray, partners: np.ndarray, drawn: Sequence[tuple[float, ...]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the images with pasted rectangles, uint8, and what is left of each."""
        mixed, height, width = images.copy(), *images.shape[1:3]
        share = np.ones(len(images), dtype=np.float32)
        for row, (own, *centre) in enumerate(drawn):
            down, across = (_side(size, (1 - own) ** 0.5, at) for size, at in zip((height, width), centre, strict=True))
            mixed[row, down, across] = partners[row, down, across]
            share[row] = 1 - (down.stop - down.start) * (across.stop - across.start) / (height * width)
        return mixed, share


def _side(size: int, part: float, centre: float) -> slice:
    """Return which pixels of a side a rectangle covers that has a part of it, around a centre."""
    length, middle = round(part * size), int(centre * size)
    start = middle - length // 2
    return slice(max(start, 0), max(min(start + length, size), 0))


def describe(mix: Mixing | None) -> Any:
    """Return what mixes images, for a fingerprint."""
    return None if mix is None else [code_identity(type(mix)), *settings_of(mix)]
