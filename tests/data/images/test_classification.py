"""The image data module: the same rows from every kind of source, one key for chance, and errors before training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from torch import Tensor

from kd_lightning.core.errors import DataError
from kd_lightning.data import CutMix, Flip, ImageClassification, Mixup, RandomCrop
from kd_lightning.data.readers import class_files

from .conftest import draw, encode

Write = Callable[..., Path]
AUGMENT: dict[str, Any] = {"augment": [RandomCrop(2), Flip()]}


def tiny(root: Path, **settings: Any) -> ImageClassification:
    data = ImageClassification("tiny", root=root, **{"batch_size": 5, **settings})
    data.setup()
    return data


def epoch_of(data: ImageClassification, epoch: int = 0) -> dict[int, tuple[Tensor, Tensor]]:
    """Return pixels and labels of every row of an epoch, by sample id."""
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(epoch)
    return {
        int(i): (x, y)
        for batch in loader
        for i, x, y in zip(batch["sample_id"], batch["pixel_values"], batch["labels"], strict=True)
    }


def same(one: dict[int, tuple[Tensor, Tensor]], other: dict[int, tuple[Tensor, Tensor]]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[i][0], other[i][0]) and torch.equal(one[i][1], other[i][1]) for i in one
    )


def test_pixels_are_normalised_by_the_training_images(write_parquet: Write) -> None:
    data = tiny(write_parquet())
    pixels = draw(24) / 255
    mean, std = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))
    (x, y), *_ = [epoch_of(data)[i] for i in (7,)]
    assert np.allclose(x.permute(1, 2, 0).numpy(), (pixels[7] - mean) / std, atol=1e-5)
    assert int(y) == 7 % 3
    assert np.allclose(data.processor.image_mean, mean, atol=1e-5)
    assert (data.num_labels, data.image_size, data.sizes) == (3, (8, 8), {"train": 24, "validation": 9})


def test_bytes_structs_and_folders_give_the_same_rows(write_parquet: Write, tmp_path: Path) -> None:
    plain = epoch_of(tiny(write_parquet()))
    assert same(plain, epoch_of(tiny(write_parquet(struct=True))))
    for seed, split in enumerate(("train", "validation")):
        for row, pixels in enumerate(draw(24 if split == "train" else 9, seed=seed)):
            file = tmp_path / "folder" / split / "abc"[row % 3] / f"{row:02d}.PNG"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode(pixels))
    data = ImageClassification("folder", path=tmp_path / "folder", batch_size=5)
    data.setup()
    order = [int(file.stem) for file in class_files(tmp_path / "folder" / "train")]
    found = epoch_of(data)
    assert all(torch.equal(found[place][0], plain[row][0]) for place, row in enumerate(order))
    assert {row % 3 for row in order[:8]} == {0, 1, 2}
    assert data.classes == ["a", "b", "c"]


def test_a_hub_data_set_gives_the_same_rows(write_parquet: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    plain = epoch_of(tiny(write_parquet()))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y", "z"])})

    def load_dataset(hub: str, subset: Any, split: str) -> Any:
        seed, count = {"train": (0, 24), "validation": (1, 9)}[split]
        cells = [{"bytes": encode(pixels), "path": None} for pixels in draw(count, seed=seed)]
        return datasets.Dataset.from_dict({"image": cells, "label": [i % 3 for i in range(count)]}, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = ImageClassification("tiny", hub="somebody/tiny", batch_size=5)
    data.setup()
    assert same(plain, epoch_of(data))
    assert data.classes == ["x", "y", "z"]


@pytest.mark.parametrize("mix", [None, Mixup(0.5), CutMix()])
def test_a_row_does_not_depend_on_workers_ranks_or_batch_size(
    write_parquet: Write, mix: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_parquet()
    one = epoch_of(tiny(root, mix=mix, **AUGMENT), epoch=3)
    assert same(one, epoch_of(tiny(root, mix=mix, batch_size=7, **AUGMENT), epoch=3))
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        shares.append(epoch_of(tiny(root, mix=mix, **AUGMENT), epoch=3))
    assert same(one, shares[0] | shares[1])
    assert not same(one, epoch_of(tiny(root, mix=mix, batch_size=24, **AUGMENT), epoch=4))


def test_workers_make_the_same_rows(write_parquet: Write) -> None:
    root = write_parquet()
    one = epoch_of(tiny(root, mix=Mixup(), **AUGMENT), epoch=1)
    assert same(one, epoch_of(tiny(root, mix=Mixup(), num_workers=1, **AUGMENT), epoch=1))


def test_mixed_images_have_mixed_labels(write_parquet: Write) -> None:
    data = tiny(write_parquet(), mix=Mixup(1.0))
    pixels, mean, std = draw(24), *(np.array(values) for values in data.normalisation())
    partners = data.train_dataset().partners(0)
    assert sorted(partners.tolist()) == list(range(24))
    for row, (x, label) in epoch_of(data).items():
        partner = partners[row]
        share = data.train_dataset()[row, 0]["mixing"][0]
        expected = np.zeros(3)
        expected[row % 3] += share
        expected[partner % 3] += 1 - share
        assert np.allclose(label, expected, atol=1e-5)
        mixed = (share * pixels[row] + (1 - share) * pixels[partner].astype(float)) / 255
        assert np.allclose(x.permute(1, 2, 0), (mixed - mean) / std, atol=1e-4)


def test_a_teacher_of_another_size_sees_the_same_crop(write_parquet: Write) -> None:
    data = tiny(write_parquet(size=(16, 16)), size=8, teacher_size=16, mean=[0.5] * 3, std=[1.0] * 3, **AUGMENT)
    batch = next(iter(data.train_dataloader()))
    student, teacher = batch["student"]["pixel_values"], batch["teacher"]["pixel_values"]
    assert (student.shape[2:], teacher.shape[2:]) == ((8, 8), (16, 16))
    small = torch.nn.functional.interpolate(teacher, (8, 8), mode="bilinear", antialias=True)
    assert torch.allclose(student, small, atol=1e-5)


def test_images_of_many_sizes_are_cut_at_random_in_training_only(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    cells = [encode(draw(1, (8, 8 + 4 * (row % 3)), seed=row)[0]) for row in range(12)]
    for split in ("train", "validation"):
        table = pa.table({"image": cells, "label": [row % 2 for row in range(12)]})
        parquet.write_table(table, tmp_path / "tiny" / f"{split}.parquet")
    data = tiny(tmp_path, size=8)
    first, second = epoch_of(data, 0), epoch_of(data, 1)
    moved = [row for row in first if not torch.equal(first[row][0], second[row][0])]
    assert moved
    assert all(row % 3 for row in moved)
    batch = next(iter(data.val_dataloader()))
    centres = [np.asarray(draw(1, (8, 16), seed=2)[0][:, 4:12])]
    place = batch["sample_id"].tolist().index(2)
    mean, std = (np.array(values) for values in data.normalisation())
    assert np.allclose(batch["pixel_values"][place].permute(1, 2, 0), (centres[0] / 255 - mean) / std, atol=1e-5)


def test_decoded_images_are_found_again(write_parquet: Write, caplog: pytest.LogCaptureFixture) -> None:
    root = write_parquet()
    with caplog.at_level("INFO"):
        one, two = tiny(root), tiny(root, **AUGMENT)
    assert [("reused" in text, "decoded into" in text) for text in caplog.messages[:4:2]] == [
        (False, True),
        (True, False),
    ]
    assert one.fingerprint != two.fingerprint
    folder = next((root / "cache" / "data").glob("tiny-train-*"))
    whole = (folder / "pixels.bin").read_bytes()
    (folder / "pixels.bin").write_bytes(whole[:-1])
    tiny(root)
    assert (folder / "pixels.bin").read_bytes() == whole
    assert "is damaged ('pixels.bin' has" in caplog.text


def changed(root: Path, split: str, **columns: Any) -> None:
    file = root / "tiny" / f"{split}.parquet"
    table = parquet.read_table(file)
    for name, change in columns.items():
        values = table.column(name).to_pylist()
        table = table.set_column(table.column_names.index(name), name, pa.array(change(values)))
    parquet.write_table(table, file)


def test_damaged_images_are_named_before_training(write_parquet: Write) -> None:
    root = write_parquet()
    changed(root, "train", image=lambda cells: [*cells[:4], cells[4][:-40], *cells[5:]])
    with pytest.raises(DataError, match=r"train\.parquet, column 'image', row 4 is truncated or damaged"):
        tiny(root)


def test_labels_out_of_range_are_named(write_parquet: Write) -> None:
    root = write_parquet()
    changed(root, "validation", label=lambda labels: [*labels[:-1], 7])
    with pytest.raises(DataError, match="row 8 holds 7 where a label from 0 to 2 should be"):
        tiny(root)


def test_sizes_that_differ_need_one(write_parquet: Write) -> None:
    root = write_parquet()
    changed(root, "train", image=lambda cells: [*cells[:6], encode(draw(1, (9, 8))[0]), *cells[7:]])
    says = r"row 0 has 8 × 8 pixels, .*row 6 9 × 8\. Give them one size by data\.size"
    with pytest.raises(DataError, match=says):
        tiny(root)
    assert tiny(root, size=8).image_size == (8, 8)


def folder_of(root: Path, *files: str) -> Path:
    for number, name in enumerate(files):
        file = root / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix:
            file.write_bytes(encode(draw(1, seed=number)[0]))
        else:
            file.mkdir()
    return root / "photos"


@pytest.mark.parametrize(("files", "says"), [
    (("train/cat/1.png", "train/dog/empty"), "dog is the folder of a class and has no image in it"),
    (("train/cat/1.png", "train/dog/2.png", "validation/fish/3.png"), "holds 'fish' where a label from 0 to 1"),
    (("train/cat/1.png", "train/Cat /2.png", "validation/cat/3.png"), "the classes 'Cat ' and 'cat'"),
    (("validation/cat/1.png", "validation/dog/1.png"), "has no train"),
    (("train/cat/1.png", "train/cat/2.png", "validation/cat/3.png"), "nothing to tell apart"),
    (("train/cat/1.png", "train/dog/2.png", "val/cat/3.png"), "type data.splits.validation=val"),
    (("train/cat/1.png", "train/cat/more/2.png", "train/dog/3.png"), "a folder within that of a class"),
])  # fmt: skip
def test_folders_that_cannot_be_right_are_named(tmp_path: Path, files: tuple[str, ...], says: str) -> None:
    with pytest.raises(DataError, match=says):
        ImageClassification("photos", path=folder_of(tmp_path, *files)).setup()


@pytest.mark.parametrize(("settings", "says"), [
    ({"size": 0}, r"size is \[HEIGHT,WIDTH\]"),
    ({"size": [8]}, r"size is \[HEIGHT,WIDTH\]"),
    ({"mean": [0.5] * 3}, "Give mean and std"),
    ({"size": 8, "teacher_size": [16, 8]}, "different proportions"),
    ({"size": 8.0}, r"size is \[HEIGHT,WIDTH\]"),
    ({"mean": 0.5, "std": 0.5}, "mean has a number for red"),
    ({"mean": [0.5] * 3, "std": [0.0, 1.0, 1.0]}, "std has a number for red, green and blue"),
    ({"labels": ["a", "b"], "num_labels": 3}, "labels names 2 classes"),
    ({"mix": 0.2}, "mix takes"),
    ({"views": 0}, "views is a number of views, at least 1"),
])  # fmt: skip
def test_wrong_settings_are_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        ImageClassification("tiny", root="/nowhere", **settings)


def test_files_that_a_table_names_are_read_beside_it_and_noticed_when_they_change(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(encode(draw(1, seed=number)[0]))
    names = [f"{number}.png" for number in range(6)]
    parquet.write_table(pa.table({"image": names, "label": [0, 1] * 3}), tmp_path / "names.parquet")

    def made() -> ImageClassification:
        data = ImageClassification("names", path=tmp_path / "names.parquet", holdout=0.3)
        data.setup()
        return data

    one = made()
    assert sum(one.sizes.values()) == 6
    (tmp_path / "3.png").write_bytes(encode(draw(1, seed=9)[0]))
    assert made().fingerprint != one.fingerprint
    (tmp_path / "3.png").unlink()
    with pytest.raises(DataError, match=r"3\.png cannot be read"):
        made()


def test_images_without_a_label_are_mixed_and_count_for_no_label(write_parquet: Write, tmp_path: Path) -> None:
    root = write_parquet()
    parquet.write_table(pa.table({"image": [encode(pixels) for pixels in draw(8, seed=5)]}), tmp_path / "more.parquet")
    found = epoch_of(tiny(root, extra=[str(tmp_path / "more.parquet")], mix=Mixup(0.5)))
    partners = tiny(root, extra=[str(tmp_path / "more.parquet")], mix=Mixup(0.5)).train_dataset().partners(0)
    for row, (_, label) in found.items():
        unlabelled = row >= 24 or partners[row] >= 24
        assert (label == -100).all() if unlabelled else float(label.sum()) == pytest.approx(1)


@pytest.mark.parametrize(("settings", "says"), [
    ({"do_rescale": False}, "scales pixels otherwise"),
    ({"rescale_factor": 1 / 127.5}, "scales pixels otherwise"),
    ({"do_flip_channel_order": True}, "turns the order of channels round"),
])  # fmt: skip
def test_a_processor_that_does_more_than_normalise_is_refused(settings: dict[str, Any], says: str) -> None:
    from kd_lightning.data.images.processor import make_processor, normalisation_of

    processor = make_processor((8, 8), ((0.5,) * 3, (0.2,) * 3))
    for name, value in settings.items():
        setattr(processor, name, value)
    with pytest.raises(DataError, match=says):
        normalisation_of(processor)


def test_the_saved_processor_makes_the_students_input_and_not_the_teachers(write_parquet: Write) -> None:
    from kd_lightning.data.images.processor import make_processor

    data = ImageClassification("tiny", root=write_parquet(size=(16, 16)), size=8, teacher_size=16)
    data.set_processors(make_processor((16, 16), ((0.5,) * 3, (0.2,) * 3)))
    data.setup()
    saved = data.saved_processor
    assert dict(saved.crop_size) == {"height": 8, "width": 8}
    assert list(saved.image_mean) == [0.5] * 3


def test_every_element_of_an_augmentations_array_is_in_the_fingerprint(write_parquet: Write) -> None:
    class Table(Flip):
        def __init__(self, values: np.ndarray) -> None:
            super().__init__()
            self.values = values

    root, one = write_parquet(), np.zeros(2000)
    other = one.copy()
    other[1000] = 1
    assert tiny(root, augment=[Table(one)]).fingerprint != tiny(root, augment=[Table(other)]).fingerprint
