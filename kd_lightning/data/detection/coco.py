"""COCO's annotations: one JSON file with images, categories and boxes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_lightning.core.errors import DataError, hint
from kd_lightning.data.detection.annotations import Annotated


def read_coco(file: str | Path, images: str | Path) -> tuple[list[Annotated], list[str], list[int]]:
    """Read a file of annotations; an image without any is one without boxes.

    Boxes are COCO's: left and upper edge, width, height, in pixels. Segmentations are not read, and may be of any form.

    Args:
        file: the JSON.
        images: the folder that `file_name` is relative to.

    Returns:
        The images in the file's order, the categories' names in the order of their ids, and these ids.

    Raises:
        DataError: if the file is no such JSON, an id is there twice or unknown, or a box cannot be.

    """
    content = _content(Path(file))
    categories = _by_id(content["categories"], "category", file)
    numbers = {key: number for number, key in enumerate(sorted(categories))}
    known = _by_id(content["images"], "image", file)
    of_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    seen: set[Any] = set()
    for number, annotation in enumerate(content["annotations"]):
        _check_annotation(annotation, f"Annotation {annotation.get('id', number)} in {file}", known, numbers, seen)
        of_image[annotation["image_id"]].append(annotation)
    rows = [_annotated(image, of_image[key], Path(images), numbers, file) for key, image in known.items()]
    return rows, [str(categories[key].get("name", key)) for key in numbers], list(numbers)


def _content(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"There is no file {file}.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is no JSON that can be read ({error}).") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{file} has no list '{key}', as annotations in COCO's form have.")
    return content


def _by_id(entries: Sequence[Mapping[str, Any]], kind: str, file: str | Path) -> dict[int, Mapping[str, Any]]:
    found: dict[int, Mapping[str, Any]] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int):
            raise DataError(f"{file} has a {kind} without a number as its id: {entry!r}.")
        if entry["id"] in found:
            raise DataError(f"{file} has the {kind} {entry['id']} twice.")
        found[entry["id"]] = entry
    return found


def _check_annotation(
    annotation: Mapping[str, Any], place: str, images: Mapping[int, Any], numbers: Mapping[int, int], seen: set[Any]
) -> None:
    if (key := annotation.get("id")) is not None:
        if key in seen:
            raise DataError(f"{place} is there twice.")
        seen.add(key)
    if annotation.get("image_id") not in images:
        raise DataError(f"{place} is of the image {annotation.get('image_id')!r}, which is not among the images.")
    if annotation.get("category_id") not in numbers:
        near = hint(str(annotation.get("category_id")), map(str, numbers))
        raise DataError(f"{place} has the unknown category {annotation.get('category_id')!r}. {near}")
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(x, int | float) for x in box):
        raise DataError(f"{place} has no box of four numbers (left, upper, width, height) but {box!r}.")


def _annotated(
    image: Mapping[str, Any], found: Sequence[Mapping[str, Any]], folder: Path, numbers: Mapping[int, int], file: Any
) -> Annotated:
    name, size = image.get("file_name"), (image.get("height"), image.get("width"))
    if not isinstance(name, str) or not all(isinstance(side, int) and side > 0 for side in size):
        raise DataError(f"The image {image['id']} in {file} needs file_name, height and width, but has {image!r}.")
    boxes = [(x, y, x + width, y + height) for x, y, width, height in (one["bbox"] for one in found)]
    classes = [numbers[one["category_id"]] for one in found]
    crowd = [bool(one.get("iscrowd", 0)) for one in found]
    return Annotated.of(str(folder / name), image["id"], size, boxes, classes, crowd)  # type: ignore[arg-type]
