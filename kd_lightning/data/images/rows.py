"""Training images as a view has them: which window, which augmentation, which partner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kd_lightning.data.images.augment import ImageAugmentation
from kd_lightning.data.images.decode import Size
from kd_lightning.data.images.mixing import Mixing
from kd_lightning.data.rows import EpochRows

PARTNERS, SHARES = 0x9A6, 0x54A
"""Keep these draws apart from those of orders and augmentations."""


class AugmentedImages(EpochRows):
    """Image rows with all that is random about them: a function of (seed, view, row) alone.

    A row has `image`, a window (height, width, 3) uint8 of the stored one; `drawn`, what each augmentation has drawn
    for it; `labels`; `sample_id`; and with mixing, `partner`, such a row too, and `mixing`. The pixels are changed when
    a batch is made of rows (`ImageBatches`).

    The partners of a view are a permutation of the training set, a function of (seed, view), so a batch does not
    decide who is mixed with whom.

    Args:
        rows: rows of an `ImageStore`.
        size: height and width of the window.
        augment: the augmentations, in their order.
        mix: mixes images; None: they are not mixed.
        seed: with view and row, decides what happens.
        views: number of views, for rows whose views repeat.

    """

    def __init__(
        self,
        rows: Any,
        size: Size,
        augment: Sequence[ImageAugmentation] = (),
        mix: Mixing | None = None,
        seed: int = 0,
        views: int | None = None,
    ) -> None:
        super().__init__(rows, seed, views)
        self.size = size
        self.augment = tuple(augment)
        self.mix = mix
        self._partners: dict[int, np.ndarray] = {}

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Return a row as it is in a view; key: (row, view), or the row for the first view."""
        row, view = key if isinstance(key, tuple) else (key, 0)
        made = super().__getitem__((row, view))
        if self.mix is None:
            return made
        partner = int(self.partners(view)[row])
        random = np.random.default_rng([SHARES, self.seed, view, row])
        return made | {"partner": super().__getitem__((partner, view)), "mixing": self.mix.draw(random)}

    def partners(self, view: int) -> np.ndarray:
        """Return with which row each row is mixed in a view."""
        if view not in self._partners:
            if self.views is None:  # epochs come one after the other; views come again
                self._partners.clear()
            self._partners[view] = np.random.default_rng([PARTNERS, self.seed, view]).permutation(len(self))
        return self._partners[view]

    def change(self, row: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
        """Return a row with a window of its image, and what the augmentations have drawn."""
        image = row["image"]
        spare = [image.shape[axis] - self.size[axis] for axis in (0, 1)]
        top, left = (int(random.integers(0, room + 1)) if room > 0 else 0 for room in spare)
        drawn = tuple(augmentation.draw(random) for augmentation in self.augment)
        return {**row, "image": window(image, top, left, self.size), "drawn": drawn}


def window(image: np.ndarray, top: int, left: int, size: Size) -> np.ndarray:
    """Return a part of an image, (height, width, 3)."""
    return image[top : top + size[0], left : left + size[1]]


def centre(image: np.ndarray, size: Size) -> np.ndarray:
    """Return the part in the middle of an image, (height, width, 3).

    Example:
        >>> centre(np.arange(5)[:, None, None], (3, 1))[:, 0, 0].tolist()
        [1, 2, 3]

    """
    return window(image, (image.shape[0] - size[0]) // 2, (image.shape[1] - size[1]) // 2, size)
