"""Changes of colour and shape by the library kornia: colour jitter and RandAugment (extra `images`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from kd_lightning.core.errors import DataError
from kd_lightning.data.images.augment import ImageAugmentation

LARGEST = 30  # RandAugment's scale of magnitudes


class ColourJitter(ImageAugmentation):
    """Changes brightness, contrast, saturation and hue, in this order.

    Args:
        brightness: values are multiplied by a factor from 1 − this to 1 + this.
        contrast: the same for the distance from the mean grey.
        saturation: the same for the distance from grey.
        hue: turns the circle of colours by up to this share of it, from 0 to 0.5.

    Raises:
        DataError: if a range is impossible, or kornia is not installed.

    """

    exact: ClassVar[bool] = False

    def __init__(
        self, brightness: float = 0.4, contrast: float = 0.4, saturation: float = 0.4, hue: float = 0.1
    ) -> None:
        _kornia()
        given = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        for name, value in given.items():
            if not 0 <= value <= (0.5 if name == "hue" else 1):
                raise DataError(f"ColourJitter({name}=…) is from 0 to {0.5 if name == 'hue' else 1}; got {value!r}.")
        self.brightness, self.contrast, self.saturation, self.hue = given.values()

    def draw(self, random: np.random.Generator) -> tuple[float, ...]:
        """Return the factors, and the turn of the hue."""
        spreads = (self.brightness, self.contrast, self.saturation)
        factors = [1 + spread * random.uniform(-1, 1) for spread in spreads]
        return (*factors, self.hue * random.uniform(-1, 1))

    def apply(self, images: np.ndarray, drawn: Sequence[tuple[float, ...]]) -> np.ndarray:
        """Return the images in other colours."""
        pixels, values = _to_pixels(images), torch.tensor(drawn, dtype=torch.float32)
        for number, change in enumerate((_brightness, _contrast, _saturation)):
            pixels = change(pixels, values[:, number])
        pixels = _kornia().enhance.adjust_hue(pixels, 2 * math.pi * values[:, 3])
        return _from_pixels(pixels)


class RandAugment(ImageAugmentation):
    """Some of fourteen changes of each image, one after the other, all of one strength. Cubuk et al. 2020, 1909.13719.

    The strength of a change is a share of its largest one, in a direction drawn for each row.

    Args:
        operations: changes of each image.
        magnitude: their strength, from 0 to 30.

    Raises:
        DataError: if a number is out of range, or kornia is not installed.

    """

    exact: ClassVar[bool] = False

    def __init__(self, operations: int = 2, magnitude: float = 9) -> None:
        _kornia()
        if not isinstance(operations, int) or operations < 1:
            raise DataError(f"RandAugment(operations=…) is a number of changes, at least 1; got {operations!r}.")
        if not 0 <= magnitude <= LARGEST:
            raise DataError(f"RandAugment(magnitude=…) is from 0 to {LARGEST}; got {magnitude!r}.")
        self.operations = operations
        self.magnitude = magnitude

    def draw(self, random: np.random.Generator) -> tuple[tuple[int, int], ...]:
        """Return which changes a row gets, and in which direction: −1 or 1."""
        chosen = random.integers(0, len(CHANGES), size=self.operations).tolist()
        signs = (2 * random.integers(0, 2, size=self.operations) - 1).tolist()
        return tuple(zip(chosen, signs, strict=True))

    def apply(self, images: np.ndarray, drawn: Sequence[tuple[tuple[int, int], ...]]) -> np.ndarray:
        """Return the changed images."""
        pixels = _to_pixels(images)
        for turn in range(self.operations):
            chosen, signs = torch.tensor([row[turn] for row in drawn]).T
            for number, change in enumerate(CHANGES):
                if (rows := torch.nonzero(chosen == number).reshape(-1)).numel():
                    pixels[rows] = change(pixels[rows], signs[rows] * (self.magnitude / LARGEST))
        return _from_pixels(pixels)


# -- changes of pixels (rows, 3, height, width) from 0 to 1, by one number a row --------------------------------------


def _blend(one: Tensor, other: Tensor, factors: Tensor) -> Tensor:
    return (other + factors.reshape(-1, 1, 1, 1) * (one - other)).clamp(0, 1)


def _grey(pixels: Tensor) -> Tensor:
    return (pixels * torch.tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)).sum(1, keepdim=True)


def _brightness(pixels: Tensor, factors: Tensor) -> Tensor:
    return _blend(pixels, torch.zeros(()), factors)


def _contrast(pixels: Tensor, factors: Tensor) -> Tensor:
    return _blend(pixels, _grey(pixels).mean((2, 3), keepdim=True), factors)


def _saturation(pixels: Tensor, factors: Tensor) -> Tensor:
    return _blend(pixels, _grey(pixels), factors)


def _sharpness(pixels: Tensor, factors: Tensor) -> Tensor:
    blurred = _kornia().filters.box_blur(pixels, (3, 3))
    return _blend(pixels, blurred, factors)


def _autocontrast(pixels: Tensor, strengths: Tensor) -> Tensor:
    low, high = pixels.amin((2, 3), keepdim=True), pixels.amax((2, 3), keepdim=True)
    return torch.where(high > low, (pixels - low) / (high - low).clamp(min=1e-6), pixels)


def _rotate(pixels: Tensor, strengths: Tensor) -> Tensor:
    return _kornia().geometry.rotate(pixels, 30 * strengths)


def _shear(axis: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda pixels, strengths: _kornia().geometry.shear(pixels, _along(axis, 0.3 * strengths))


def _translate(axis: int) -> Callable[[Tensor, Tensor], Tensor]:
    def change(pixels: Tensor, strengths: Tensor) -> Tensor:
        return _kornia().geometry.translate(pixels, _along(axis, 0.45 * pixels.shape[3 - axis] * strengths))

    return change


def _along(axis: int, values: Tensor) -> Tensor:
    """Return (rows, 2): the values in x (axis 0) or in y (axis 1)."""
    return torch.stack([values, torch.zeros_like(values)][:: 1 - 2 * axis], dim=1)


CHANGES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda pixels, strengths: pixels,
    _autocontrast,
    lambda pixels, strengths: _kornia().enhance.equalize(pixels),
    _rotate,
    lambda pixels, strengths: _kornia().enhance.solarize(pixels, 1 - strengths.abs()),
    lambda pixels, strengths: _kornia().enhance.posterize(pixels, (8 - (4 * strengths.abs()).round()).int()),
    lambda pixels, strengths: _saturation(pixels, 1 + 0.9 * strengths),
    lambda pixels, strengths: _contrast(pixels, 1 + 0.9 * strengths),
    lambda pixels, strengths: _brightness(pixels, 1 + 0.9 * strengths),
    lambda pixels, strengths: _sharpness(pixels, 1 + 0.9 * strengths),
    _shear(0),
    _shear(1),
    _translate(0),
    _translate(1),
)
"""RandAugment's fourteen changes, by a strength from −1 to 1 for each row."""


def _to_pixels(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def _from_pixels(pixels: Tensor) -> np.ndarray:
    return (255 * pixels).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def _kornia() -> Any:
    try:
        import kornia
    except ImportError as error:
        raise DataError("Changes of colours need kornia: pip install kd-lightning[images]") from error
    return kornia
