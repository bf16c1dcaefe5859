"""An image and the boxes in it, checked: what readers of annotations return, whatever their files look like."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd_lightning.core.errors import DataError

log = logging.getLogger(__name__)

ROUNDING = 1.5
"""Pixels by which a box may reach over an image's edge, as rounded annotations do: it is cut there."""


@dataclass(frozen=True)
class Annotated:
    """An image and its boxes.

    Args:
        image: its file.
        image_id: by which a metric and predictions name it.
        size: height and width in pixels, of the image as it is stored.
        boxes: (n, 4) float32: left, upper, right and lower edge in pixels.
        classes: (n,) int64, from 0.
        crowd: (n,) bool: boxes around a group, which are no target, and no mistake where they are found.

    """

    image: str
    image_id: int
    size: tuple[int, int]
    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray

    @classmethod
    def of(
        cls,
        image: str,
        image_id: int,
        size: tuple[int, int],
        boxes: Sequence[Sequence[float]],
        classes: Sequence[int],
        crowd: Sequence[Any] | None = None,
    ) -> Annotated:
        """Check boxes and put them together; those without area are left out, and told of.

        Raises:
            DataError: for a box whose edges are not finite, are in the wrong order, or lie outside of the image.

        """
        corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        for number, box in enumerate(corners):
            _check(box, size, f"Box {number} of {image}")
        height, width = size
        cut = corners.clip(0, [width, height, width, height])
        whole = (cut[:, 2:] > cut[:, :2]).all(1)
        if not whole.all():
            log.warning("%s: %d boxes without area are left out.", image, int((~whole).sum()))
        groups = np.zeros(len(corners), bool) if crowd is None else np.asarray(crowd, dtype=bool)
        found = cut[whole].astype(np.float32), np.asarray(classes, dtype=np.int64)[whole], groups[whole]
        return cls(image, image_id, size, *found)


def _check(box: np.ndarray, size: tuple[int, int], place: str) -> None:
    shown = ", ".join(f"{edge:g}" for edge in box)
    if not np.isfinite(box).all():
        raise DataError(f"{place} has edges that are no numbers: {shown}.")
    if (box[2:] < box[:2]).any():
        raise DataError(f"{place} has a negative width or height: its edges are {shown} (left, upper, right, lower).")
    height, width = size
    beyond = max(-box[:2].min(), box[2] - width, box[3] - height)
    if beyond > ROUNDING:
        raise DataError(
            f"{place} reaches {beyond:g} pixels beyond the image of {width} x {height}: its edges are {shown}. Are the "
            "boxes those of another size, or of another form?"
        )
