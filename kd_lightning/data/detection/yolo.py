"""YOLO's annotations: a text file beside each image, with a line for each box."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from kd_lightning.core.errors import DataError
from kd_lightning.data.detection.annotations import Annotated

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def read_yolo(images: str | Path, labels: str | Path, names: Sequence[str]) -> list[Annotated]:
    """Read images and the files of their names with lines `class x y width height`; without one there are no boxes.

    Centre, width and height are shares of the image's.

    Args:
        images: a folder of images.
        labels: a folder with `NAME.txt` for `NAME.jpg`.
        names: of the classes, in their order.

    Returns:
        The images in the order of their names; their ids count them from 0.

    Raises:
        DataError: if there are no images, a line is no box, or names an unknown class.

    """
    folder = Path(images)
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in IMAGES)
    if not files:
        raise DataError(f"There are no images in {folder} ({', '.join(IMAGES)}).")
    stems = [file.stem for file in files]
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise DataError(f"{folder} has two images '{twice}', and there is one file of labels for both.")
    return [_annotated(file, number, Path(labels) / f"{file.stem}.txt", names) for number, file in enumerate(files)]


def _annotated(file: Path, number: int, labels: Path, names: Sequence[str]) -> Annotated:
    try:
        with Image.open(file) as image:
            width, height = image.size
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{file} is no image that can be read.") from error
    lines = labels.read_text(encoding="utf-8").splitlines() if labels.is_file() else []
    parsed = [_parsed(line, f"Line {i} of {labels}", names) for i, line in enumerate(lines, 1) if line.strip()]
    boxes = [
        ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        for _, (x, y, w, h) in parsed
    ]
    return Annotated.of(str(file), number, (height, width), boxes, [label for label, _ in parsed])


def _parsed(line: str, place: str, names: Sequence[str]) -> tuple[int, tuple[float, ...]]:
    words = line.split()
    try:
        label, box = int(words[0]), tuple(float(word) for word in words[1:])
    except ValueError:
        label, box = -1, ()
    if len(box) != 4:
        raise DataError(f"{place} is no box `class x y width height` but {line.strip()!r}.")
    if not 0 <= label < len(names):
        raise DataError(f"{place} has the class {label}, and there are {len(names)}: {', '.join(names[:12])}.")
    if max(box) > 1 + 1e-3 or min(box) < 0:
        raise DataError(f"{place} has numbers outside of [0, 1], which are no shares of the image: {line.strip()!r}.")
    return label, box
