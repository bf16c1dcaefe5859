"""The same boxes as COCO's JSON and as YOLO's text; and what is wrong with either is told."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kd_lightning.core.errors import DataError
from kd_lightning.data.detection.coco import read_coco
from kd_lightning.data.detection.yolo import read_yolo

NAMES = ["circle", "square", "cross"]
IDS = [7, 3, 12]  # COCO's categories have gaps, and need not be in order
SIZES = [(40, 60), (30, 30), (50, 20)]


def drawn_boxes() -> list[list[tuple[int, int, int, int, int]]]:
    """Return for each image its boxes: class, left, upper, width, height; the last image has none."""
    draw, found = random.Random(0), []
    for height, width in SIZES[:-1]:
        corners = [(draw.randint(0, 2), draw.randint(0, width - 9), draw.randint(0, height - 9)) for _ in range(4)]
        found.append(
            [(label, x, y, draw.randint(1, width - x), draw.randint(1, height - y)) for label, x, y in corners]
        )
    return [*found, []]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, (height, width) in enumerate(SIZES):
        Image.new("RGB", (width, height)).save(folder / f"{number}.png")
    return folder


def as_coco(folder: Path, **changes: Any) -> Path:
    content: dict[str, Any] = {
        "categories": [{"id": key, "name": name} for key, name in zip(IDS, NAMES, strict=True)],
        "images": [{"id": 100 + n, "file_name": f"{n}.png", "height": h, "width": w} for n, (h, w) in enumerate(SIZES)],
        "annotations": [],
    }
    for number, boxes in enumerate(drawn_boxes()):
        for label, *box in boxes:
            key = len(content["annotations"])
            made = {"id": key, "image_id": 100 + number, "category_id": IDS[label], "bbox": list(box)}
            content["annotations"].append(made | {"segmentation": {"counts": [1, 2], "size": [3, 1]}})  # RLE: not read
    file = folder.parent / "annotations.json"
    file.write_text(json.dumps(content | changes))
    return file


def as_yolo(images: Path) -> Path:
    folder = images.parent / "labels"
    folder.mkdir()
    for number, boxes in enumerate(drawn_boxes()):
        height, width = SIZES[number]
        lines = [
            f"{label} {(x + w / 2) / width} {(y + h / 2) / height} {w / width} {h / height}"
            for label, x, y, w, h in boxes
        ]
        if lines:
            (folder / f"{number}.txt").write_text("\n".join(lines) + "\n\n")
    return folder


def test_both_forms_have_the_same_boxes(images: Path) -> None:
    coco, names, ids = read_coco(as_coco(images), images)
    yolo = read_yolo(images, as_yolo(images), NAMES)
    assert names == ["square", "circle", "cross"]
    assert ids == [3, 7, 12]
    for one, other, boxes, size in zip(coco, yolo, drawn_boxes(), SIZES, strict=True):
        expected = np.array([(x, y, x + w, y + h) for _, x, y, w, h in boxes], np.float32).reshape(-1, 4)
        assert one.size == other.size == size
        assert one.image == other.image
        assert np.array_equal(one.boxes, expected)
        assert np.allclose(other.boxes, expected, atol=1e-4)
        assert [names[label] for label in one.classes] == [NAMES[label] for label in other.classes]
        assert [NAMES[label] for label in other.classes] == [NAMES[label] for label, *_ in boxes]
    assert [row.image_id for row in coco] == [100, 101, 102]


def annotation(**changes: Any) -> list[dict[str, Any]]:
    return [{"id": 1, "image_id": 100, "category_id": 7, "bbox": [1, 2, 10, 5]} | changes]


def test_a_box_is_cut_at_the_edge_and_one_without_area_left_out(images: Path, caplog: Any) -> None:
    made = [*annotation(bbox=[-1, 2, 10, 39]), *annotation(id=2, bbox=[5, 5, 0, 9]), *annotation(id=3, iscrowd=1)]
    row = read_coco(as_coco(images, annotations=made), images)[0][0]
    assert row.boxes.tolist() == [[0, 2, 9, 40], [1, 2, 11, 7]]
    assert row.crowd.tolist() == [False, True]
    assert "1 boxes without area are left out" in caplog.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"annotations": annotation(bbox=[50, 2, 20, 5])}, "reaches 10 pixels beyond the image of 60 x 40"),
        ({"annotations": annotation(bbox=[5, 2, -3, 5])}, "negative width or height"),
        ({"annotations": annotation(bbox=[5, 2, float("nan"), 5])}, "no numbers"),
        ({"annotations": annotation(bbox=[5, 2, 3])}, "no box of four numbers"),
        ({"annotations": annotation(bbox=None)}, "no box of four numbers"),
        ({"annotations": annotation(category_id=8)}, "unknown category 8"),
        ({"annotations": annotation(image_id=8)}, "the image 8, which is not among"),
        ({"annotations": annotation() * 2}, "is there twice"),
        ({"categories": [{"id": 7}, {"id": 7}]}, "the category 7 twice"),
        ({"images": [{"id": 100, "file_name": "0.png"}], "annotations": []}, "needs file_name, height and width"),
        ({"annotations": {}}, "no list 'annotations'"),
    ],
)
def test_what_is_wrong_in_coco_is_told(images: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_coco(as_coco(images, **changes), images)


def test_a_file_that_is_none_is_told(images: Path) -> None:
    with pytest.raises(DataError, match="There is no file"):
        read_coco(images / "none.json", images)
    (images / "half.json").write_text('{"images": [')
    with pytest.raises(DataError, match="no JSON"):
        read_coco(images / "half.json", images)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 0.5 0.5 0.5", "Line 1 of .* is no box"),
        ("circle 0.5 0.5 0.5 0.5", "is no box"),
        ("3 0.5 0.5 0.5 0.5", "the class 3, and there are 3: circle"),
        ("0 20 20 10 10", "outside of \\[0, 1\\]"),
        ("0 0.9 0.5 0.9 0.5", "beyond the image"),
        ("0 0.5 0.5 nan 0.5", "no numbers"),
    ],
)
def test_what_is_wrong_in_yolo_is_told(images: Path, line: str, said: str) -> None:
    folder = as_yolo(images)
    (folder / "1.txt").write_text(line)
    with pytest.raises(DataError, match=said):
        read_yolo(images, folder, NAMES)


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda folder: [file.unlink() for file in folder.glob("*")], "There are no images"),
        (lambda folder: (folder / "1.jpg").write_bytes((folder / "1.png").read_bytes()), "two images '1'"),
        (lambda folder: (folder / "1.png").write_text("none"), "no image that can be read"),
    ],
)
def test_folders_that_cannot_be_are_told(images: Path, prepare: Callable[[Path], Any], said: str) -> None:
    folder = as_yolo(images)
    prepare(images)
    with pytest.raises(DataError, match=said):
        read_yolo(images, folder, NAMES)
