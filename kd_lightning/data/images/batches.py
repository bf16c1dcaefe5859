"""Rows of images → a batch: augmented, mixed, brought to each model's size and normalised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from kd_lightning.core.batch import ROW_MARK, VIEW_ID
from kd_lightning.data.images.augment import ImageAugmentation
from kd_lightning.data.images.decode import Size
from kd_lightning.data.images.mixing import Mixing
from kd_lightning.data.images.rows import centre

MARKED = 16384  # pixel values of an image that its mark is computed from; of larger ones evenly spread values


@dataclass(frozen=True)
class Input:
    """What one model is shown of a batch.

    Args:
        size: height and width.
        mean: of each channel, which becomes 0; pixel values are from 0 to 1.
        std: of each channel, which becomes 1.

    """

    size: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Return the model's input, (rows, 3, height, width) float32.

        Args:
            images: (rows, 3, height, width) float32, from 0 to 255.

        """
        if tuple(images.shape[2:]) != self.size:
            images = interpolate(images, self.size, mode="bilinear", antialias=True, align_corners=False)
        mean, std = (255 * torch.tensor(values).reshape(-1, 1, 1) for values in (self.mean, self.std))
        return (images - mean).div_(std)


class ImageBatches:
    """Makes batches of image rows, augmented ones and those that are evaluated.

    Args:
        size: height and width at which images are augmented and mixed.
        inputs: what the models are shown: one entry "" for both, or `student` and `teacher`.
        num_labels: number of classes, for labels of mixed images.
        augment: the augmentations, in the order of the rows' `drawn`.
        mix: mixes images with their partners.
        marks: whether a batch has `row_mark`, a hash of each row's images and of what was drawn for it.

    """

    def __init__(
        self,
        size: Size,
        inputs: Mapping[str, Input],
        num_labels: int,
        augment: Sequence[ImageAugmentation] = (),
        mix: Mixing | None = None,
        marks: bool = False,
    ) -> None:
        self.size = size
        self.inputs = dict(inputs)
        self.num_labels = num_labels
        self.augment = tuple(augment)
        self.mix = mix
        self.marks = marks

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the batch of `rows`.

        It has `pixel_values` (rows, 3, height, width), by model where they differ; `labels` (rows,), or for mixed
        images probabilities (rows, labels); `sample_id` (rows,); and `view_id` and `row_mark` where rows have several
        views.
        """
        images, marks = self.augmented(rows)
        labels = np.array([row["labels"] for row in rows])
        if "partner" in rows[0]:
            assert self.mix is not None, "rows with partners are mixed"
            partners, theirs = self.augmented([row["partner"] for row in rows])
            drawn = [row["mixing"] for row in rows]
            images, share = self.mix.apply(images, partners, drawn)
            labels = self._mixed(labels, np.array([row["partner"]["labels"] for row in rows]), share)
            if marks is not None and theirs is not None:
                marks = marks + 3 * theirs + 5 * _marks_of(drawn)
        own = {name: torch.from_numpy(np.array([row[name] for row in rows])) for name in _numbers(rows[0])}
        own |= {"labels": torch.from_numpy(labels)}
        return self._inputs(images) | own | ({} if marks is None else {ROW_MARK: torch.from_numpy(marks)})

    def augmented(self, rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the rows' images, (rows, height, width, 3) uint8, and their marks if they get some.

        A mark is computed from the pixels as long as they are only moved, and else from what was drawn.
        """
        if "drawn" not in rows[0]:
            return np.stack([centre(row["image"], self.size) for row in rows]), None
        images, marks, exact = np.stack([row["image"] for row in rows]), None, True
        for number, augmentation in enumerate(self.augment):
            drawn = [row["drawn"][number] for row in rows]
            if self.marks and not augmentation.exact:
                marks = (_marks_of_pixels(images) if exact else marks) + (2 * number + 1) * _marks_of(drawn)
                exact = False
            elif self.marks and not exact:
                marks = marks + (2 * number + 1) * _marks_of(drawn)
            images = augmentation.apply(images, drawn)
        return images, _marks_of_pixels(images) if self.marks and exact else marks

    def _mixed(self, labels: np.ndarray, others: np.ndarray, share: np.ndarray) -> np.ndarray:
        """Return the probability of each class, (rows, labels) float32."""
        one, other = (np.eye(self.num_labels, dtype=np.float32)[classes] for classes in (labels, others))
        return share[:, None] * one + (1 - share[:, None]) * other

    def _inputs(self, images: np.ndarray) -> dict[str, Any]:
        channels_first = torch.from_numpy(images).permute(0, 3, 1, 2)
        pixels = channels_first.to(torch.float32, memory_format=torch.contiguous_format)
        made = {role: {"pixel_values": show(pixels)} for role, show in self.inputs.items()}
        return made.get("", made)


def _numbers(row: Mapping[str, Any]) -> list[str]:
    return [name for name in ("sample_id", VIEW_ID) if name in row]


def _marks_of_pixels(images: np.ndarray) -> np.ndarray:
    """Return a hash of each image, (rows,) int64: values × fixed random odd numbers, modulo 2⁶⁴."""
    flat = images.reshape(len(images), -1)
    flat = flat[:, :: max(1, -(-flat.shape[1] // MARKED))]
    return (flat.astype(np.uint64) @ _factors(flat.shape[1])).view(np.int64)


def _marks_of(drawn: Sequence[Any]) -> np.ndarray:
    """Return a hash of what was drawn for each row, (rows,) int64."""
    return np.array([crc32(repr(values).encode()) for values in drawn], dtype=np.int64)


@lru_cache(maxsize=8)
def _factors(count: int) -> np.ndarray:
    return np.random.PCG64(0x1A6E).random_raw(count) | np.uint64(1)
