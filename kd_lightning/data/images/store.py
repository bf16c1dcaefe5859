"""Decoded images on disk: written once, then mapped into memory by every run and process."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from kd_lightning.core.errors import DataError
from kd_lightning.core.files import write_json
from kd_lightning.data.images.decode import Size

PIXELS = "pixels.bin"
ROWS = "rows.npz"
STATISTICS = "statistics.json"
AT_ONCE = 1024  # images decoded together; threads, because Pillow lets others run meanwhile


class ImageStore(Dataset[dict[str, Any]]):
    """The decoded images of a split with their labels, mapped from disk without being read.

    A row is `image`, a view (height, width, 3) uint8, `labels` and `sample_id`. Images may differ in size: they lie end
    to end in one file.

    Args:
        folder: what `write_store` wrote.

    Raises:
        DataError: if a file is missing, cut or changed.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            with np.load(folder / ROWS, allow_pickle=False) as arrays:
                self.shapes, self.labels = arrays["shapes"], arrays["labels"]
            sizes = self.shapes.astype(np.int64).prod(axis=1) * 3
            self.offsets = np.concatenate([[0], np.cumsum(sizes)])
            # as a plain array, of which parts are taken faster
            self.pixels = np.memmap(folder / PIXELS, mode="r", dtype=np.uint8).view(np.ndarray)
            self.statistics: dict[str, list[float]] = json.loads((folder / STATISTICS).read_text())
        except (OSError, EOFError, ValueError, KeyError) as error:
            raise DataError(f"The decoded images in {folder} are damaged; delete that folder and run again.") from error
        if len(self.pixels) != self.offsets[-1] or len(self.labels) != len(self.shapes):
            raise DataError(f"The decoded images in {folder} are damaged; delete that folder and run again.")

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageStore, (self.folder,)  # a worker process maps the file too, and is not sent its pixels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        image = self.pixels[self.offsets[row] : self.offsets[row + 1]].reshape(*self.shapes[row], 3)
        return {"image": image, "labels": self.labels[row], "sample_id": int(row)}


def write_store(
    folder: Path, images: Sequence[Callable[[], np.ndarray]], labels: np.ndarray, names: Callable[[int], str] | None
) -> None:
    """Decode images and write them, their labels and the statistics of their channels into an existing folder.

    Args:
        folder: where to write.
        images: what decodes each of them, (height, width, 3) uint8; several are called at once.
        labels: (images,), or (images, labels).
        names: what images are called in the error where two differ in size; None: they may.

    Raises:
        DataError: if two images differ in size and must not, or one cannot be decoded.

    """
    shapes: list[Size] = []
    sums, squares = np.zeros(3), np.zeros(3)
    with (folder / PIXELS).open("wb") as file, ThreadPoolExecutor() as threads:
        for start in range(0, len(images), AT_ONCE):
            for image in threads.map(lambda decoder: decoder(), images[start : start + AT_ONCE]):
                shapes.append(image.shape[:2])
                if names is not None and shapes[-1] != shapes[0]:
                    raise DataError(_differ(names, shapes))
                file.write(np.ascontiguousarray(image).data)
                values = image.reshape(-1, 3) / np.float32(255)
                sums += values.sum(0, dtype=np.float64)
                squares += np.square(values).sum(0, dtype=np.float64)
    np.savez(folder / ROWS, shapes=np.array(shapes, dtype=np.int32).reshape(-1, 2), labels=labels)
    mean = sums / (count := max(sum(height * width for height, width in shapes), 1))
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    write_json(folder / STATISTICS, {"mean": mean.tolist(), "std": deviation.tolist()})


def _differ(names: Callable[[int], str], shapes: Sequence[Size]) -> str:
    (height, width), (other_height, other_width) = shapes[0], shapes[-1]
    return (
        f"Images have different sizes: {names(0)} has {height} × {width} pixels, {names(len(shapes) - 1)} "
        f"{other_height} × {other_width}. Give them one size by data.size=[HEIGHT,WIDTH]."
    )
