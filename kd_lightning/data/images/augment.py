"""Random changes of images: parameters are drawn row by row, and applied to whole batches of uint8 pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

from kd_lightning.core.errors import DataError, hint
from kd_lightning.core.hashing import code_identity
from kd_lightning.data.rows import content_hash


class ImageAugmentation(ABC):
    """A random change of images. A subclass draws the parameters of a row, and applies those of a batch.

    What a row becomes is a function of its pixels and of what `draw` returned for it, and of no other row.

    Example:
        >>> class Darker(ImageAugmentation):
        ...     exact = False
        ...     def draw(self, random):
        ...         return random.uniform(0.5, 1.0)
        ...     def apply(self, images, drawn):
        ...         return (images * np.array(drawn)[:, None, None, None]).astype(np.uint8)
        >>> Darker().apply(np.full((1, 1, 1, 3), 200, np.uint8), [0.5])[0, 0, 0].tolist()
        [100, 100, 100]

    """

    exact: ClassVar[bool] = True
    """Whether it moves pixels without computing with their values, so that results are the same on any machine."""

    @abstractmethod
    def draw(self, random: np.random.Generator) -> Any:
        """Return the parameters of one row: numbers, or a tuple of them."""

    @abstractmethod
    def apply(self, images: np.ndarray, drawn: Sequence[Any]) -> np.ndarray:
        """Return changed images of the same shape, (rows, height, width, 3) uint8, by the parameters of each row."""


Augmentations: TypeAlias = ImageAugmentation | Sequence[ImageAugmentation] | Mapping[str, ImageAugmentation] | None


class RandomCrop(ImageAugmentation):
    """Crops images to their own size after padding: a shift by up to `padding` pixels each way.

    Args:
        padding: pixels added at each side.
        mode: what is there: `zeros`, black; or `reflect`, the image mirrored at its edge.

    Raises:
        DataError: if `padding` is below 1, or the mode unknown.

    Example:
        >>> image = np.arange(3, dtype=np.uint8).reshape(1, 1, 3, 1).repeat(3, axis=-1)
        >>> RandomCrop(1, "zeros").apply(image, [(1, 0)])[0, 0, :, 0].tolist()
        [0, 0, 1]

    """

    def __init__(self, padding: int = 4, mode: Literal["zeros", "reflect"] = "reflect") -> None:
        if mode not in ("zeros", "reflect"):
            raise DataError(f"RandomCrop has no mode {mode!r}. {hint(str(mode), ('zeros', 'reflect'))}")
        if type(padding) is not int or padding < 1:
            raise DataError(f"RandomCrop(padding=…) is a number of pixels, at least 1; got {padding!r}.")
        self.padding = padding
        self.mode = mode

    def draw(self, random: np.random.Generator) -> tuple[int, int]:
        """Return where the crop begins in the padded image: top and left."""
        top, left = random.integers(0, 2 * self.padding + 1, size=2).tolist()
        return top, left

    def apply(self, images: np.ndarray, drawn: Sequence[tuple[int, int]]) -> np.ndarray:
        """Return the crops."""
        sides, (height, width) = (self.padding, self.padding), images.shape[1:3]
        padded = np.pad(images, ((0, 0), sides, sides, (0, 0)), "constant" if self.mode == "zeros" else "reflect")
        cropped = np.empty_like(images)
        for row, (top, left) in enumerate(drawn):
            cropped[row] = padded[row, top : top + height, left : left + width]
        return cropped


class Flip(ImageAugmentation):
    """Mirrors images from left to right.

    Args:
        p: the probability.

    Raises:
        DataError: if `p` is no probability.

    Example:
        >>> image = np.arange(3, dtype=np.uint8).reshape(1, 1, 3, 1).repeat(3, axis=-1)
        >>> Flip().apply(image, [True])[0, 0, :, 0].tolist()
        [2, 1, 0]

    """

    def __init__(self, p: float = 0.5) -> None:
        if not isinstance(p, int | float) or not 0 <= p <= 1:
            raise DataError(f"Flip(p=…) is a probability; got {p!r}.")
        self.p = p

    def draw(self, random: np.random.Generator) -> bool:
        """Return whether to mirror a row."""
        return bool(random.random() < self.p)

    def apply(self, images: np.ndarray, drawn: Sequence[bool]) -> np.ndarray:
        """Return the images, some of them mirrored."""
        mirrored, chosen = images.copy(), np.flatnonzero(drawn)
        mirrored[chosen] = images[chosen, :, ::-1]
        return mirrored


def as_list(augment: Augmentations) -> list[ImageAugmentation]:
    """Return augmentations in their order, without their names; what is null is left out.

    Raises:
        DataError: if something is no augmentation of images.

    """
    if isinstance(augment, ImageAugmentation):
        return [augment]
    values = list(augment.values() if isinstance(augment, Mapping) else augment or ())
    for value in values:
        if value is not None and not isinstance(value, ImageAugmentation):
            raise DataError(f"augment takes augmentations of images, such as kd.data.Flip(), but got {value!r}.")
    return [value for value in values if value is not None]


def describe(augment: Sequence[ImageAugmentation]) -> list[Any]:
    """Return what augmentations are, for a fingerprint: names of classes and their settings."""
    return [[code_identity(type(augmentation)), *settings_of(augmentation)] for augmentation in augment]


def settings_of(thing: Any) -> list[Any]:
    """Return the attributes of an object for a fingerprint: plain values as they are, anything else by its content.

    Raises:
        DataError: if an attribute is of no kind that can be compared.

    """
    plain = {name: value for name, value in vars(thing).items() if isinstance(value, int | float | str | None)}
    others = {name: value for name, value in vars(thing).items() if name not in plain}
    return [plain, content_hash(others, type(thing).__name__)] if others else [plain]
