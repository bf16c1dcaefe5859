"""What is made of one image in several rooms is the same: by the saved processor, for the teacher alone, in workers."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from kd_lightning.core.errors import DataError
from kd_lightning.data import Flip, ImageAugmentation, ImageClassification, Mixup, RandomCrop
from kd_lightning.data.images.augment import describe
from kd_lightning.data.images.rows import AugmentedImages

from .conftest import draw, encode

Write = Callable[..., Path]
PLAIN = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}


def of_images(folder: Path, images: Sequence[np.ndarray], **settings: Any) -> ImageClassification:
    for split in ("train", "validation"):
        table = pa.table({"image": [encode(pixels) for pixels in images], "label": [i % 2 for i in range(len(images))]})
        parquet.write_table(table, folder / f"{split}.parquet")
    data = ImageClassification("drawn", path=folder, **settings)
    data.setup()
    return data


def noise(*shapes: tuple[int, int]) -> list[np.ndarray]:
    return [draw(1, shape, seed)[0] for seed, shape in enumerate(shapes)]


@pytest.mark.parametrize("shapes", [[(61, 37), (37, 61)], [(100, 333), (33, 32)], [(32, 32), (7, 9)]])
def test_the_saved_processor_makes_the_pixels_that_are_evaluated(tmp_path: Path, shapes: list[tuple[int, int]]) -> None:
    images = noise(*shapes)
    data = of_images(tmp_path, images, size=32, **PLAIN)
    (batch,) = data.val_dataloader()
    made = data.saved_processor([Image.fromarray(pixels) for pixels in images], return_tensors="pt")["pixel_values"]
    assert torch.allclose(made, batch["pixel_values"], atol=1e-6)


def test_a_size_that_is_no_square_has_a_processor_where_images_have_its_proportions(tmp_path: Path) -> None:
    images = noise((20, 40), (32, 64))
    data = of_images(tmp_path, images, size=[16, 32], **PLAIN)
    (batch,) = data.val_dataloader()
    made = data.saved_processor([Image.fromarray(pixels) for pixels in images], return_tensors="pt")["pixel_values"]
    assert torch.allclose(made, batch["pixel_values"], atol=1e-6)
    assert of_images(tmp_path, noise((20, 20), (32, 32)), size=[16, 32], **PLAIN).saved_processor is None


@pytest.mark.parametrize("shape", [(8, 8), (16, 16)])
def test_a_teacher_is_trained_on_the_pixels_that_it_shows_the_student(tmp_path: Path, shape: tuple[int, int]) -> None:
    images = noise(*[shape] * 6)
    settings = {"size": 8, "teacher_size": 16, "augment": [RandomCrop(2), Flip()], "batch_size": 6, **PLAIN}
    student = of_images(tmp_path, images, **settings)
    teacher = ImageClassification("drawn", path=tmp_path, **settings)
    teacher.for_teacher()
    teacher.setup()
    (own,), (shown,) = teacher.train_dataloader(), student.train_dataloader()
    assert torch.equal(own["pixel_values"], shown["teacher"]["pixel_values"])
    assert own["pixel_values"].shape == (6, 3, 16, 16)
    assert (teacher.image_size, student.image_size) == ((16, 16), (8, 8))
    assert teacher.input_options()["image_size"] == 16


def test_proportions_of_the_teachers_images_are_checked_without_a_size(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\(8, 12\) and teacher_size \(16, 16\) differ in proportions"):
        of_images(tmp_path, noise((8, 12), (8, 12)), teacher_size=16)


def test_the_size_of_images_is_known_before_they_are_all_decoded(write_parquet: Write) -> None:
    data = ImageClassification("tiny", root=write_parquet(size=(6, 10)))
    assert data.image_size == (6, 10)
    assert data.input_options() == {"image_size": [6, 10]}


def test_predictions_are_traced_to_rows_and_files(tmp_path: Path) -> None:
    images = noise(*[(4, 4)] * 20)
    table = pa.table({"image": [encode(pixels) for pixels in images], "label": [i % 2 for i in range(20)]})
    parquet.write_table(table, tmp_path / "all.parquet")
    data = ImageClassification("drawn", path=tmp_path / "all.parquet", holdout=0.2)
    data.setup()
    numbers = data.row_numbers("validation")
    assert numbers is not None
    assert len(numbers) == data.sizes["validation"] > 0
    for row, number in zip(data.rows("validation"), numbers, strict=True):
        assert np.array_equal(row["image"], images[number])
    for label in ("cat", "ox"):
        (tmp_path / "photos" / label).mkdir(parents=True)
    for number, pixels in enumerate(images):
        Image.fromarray(pixels).save(tmp_path / "photos" / ("cat", "ox")[number % 2] / f"{number}.png")
    folder = ImageClassification("photos", path=tmp_path / "photos", holdout=0.2)
    folder.setup()
    files = folder.row_numbers("validation")
    assert files is not None
    for row, file in zip(folder.rows("validation"), files, strict=True):
        assert np.array_equal(row["image"], np.asarray(Image.open(tmp_path / "photos" / file)))


def test_a_class_may_begin_with_an_underscore(tmp_path: Path) -> None:
    for label in ("_other", "cat", "__MACOSX", ".thumbnails"):
        (tmp_path / label).mkdir()
        for number in range(6):
            Image.fromarray(draw(1, (4, 4), number)[0]).save(tmp_path / label / f"{number}.png")
    data = ImageClassification("photos", path=tmp_path, holdout=0.2)
    assert data.classes == ["_other", "cat"]


def own_augmentation(folder: Path, factor: float) -> ImageAugmentation:
    """Return an augmentation of a user's file that has this factor in its code."""
    file = folder / f"mine_{factor}.py"
    file.write_text(
        "from kd_lightning.data import ImageAugmentation\n"
        "class Darker(ImageAugmentation):\n"
        "    def draw(self, random):\n        return 0\n"
        f"    def apply(self, images, drawn):\n        return (images * {factor}).astype('uint8')\n"
    )
    import importlib.util

    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module.Darker()  # type: ignore[no-any-return]


def test_an_edited_augmentation_is_another_one(tmp_path: Path) -> None:
    half, third, again = (own_augmentation(tmp_path, factor) for factor in (0.5, 0.3, 0.5))
    assert describe([half]) == describe([again]) != describe([third])
    assert describe([Flip(0.25)]) == [["Flip", {"p": 0.25}]]


def test_partners_of_views_are_drawn_once(write_parquet: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ImageClassification("tiny", root=write_parquet(), mix=Mixup(0.2), views=3)
    data.setup()
    rows = data.train_dataset()
    assert isinstance(rows, AugmentedImages)
    one, other = rows.partners(0), rows.partners(1)
    assert rows.partners(0) is one
    assert rows.partners(1) is other
    assert sorted(one) == sorted(other) == list(range(24))
    assert not np.array_equal(one, other)


def test_workers_are_sent_the_place_of_images_and_not_the_pixels(write_parquet: Write) -> None:
    data = ImageClassification("tiny", root=write_parquet(size=(64, 64)))
    data.setup()
    sent = pickle.dumps(data.train_rows)
    assert len(sent) < 24 * 64 * 64
    assert np.array_equal(pickle.loads(sent)[5]["image"], data.train_rows[5]["image"])


def test_a_missing_image_is_named_by_its_row(tmp_path: Path) -> None:
    cells = [encode(pixels) for pixels in noise((4, 4), (4, 4))]
    parquet.write_table(pa.table({"image": [*cells, None], "label": [0, 1, 0]}), tmp_path / "train.parquet")
    parquet.write_table(pa.table({"image": cells, "label": [0, 1]}), tmp_path / "validation.parquet")
    with pytest.raises(DataError, match=r"train\.parquet, column 'image', row 2 holds nothing where an image should"):
        ImageClassification("drawn", path=tmp_path).setup()
