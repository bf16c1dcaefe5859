"""Cached views: a teacher that is read from disk shows the student what a live one would, over whole epochs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

import kd_lightning as kd
from kd_lightning.core.errors import CacheError
from kd_lightning.data import CutMix, Flip, ImageClassification, Mixup, RandomCrop

from .test_classification import AUGMENT, tiny

Write = Callable[..., Path]


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def quiet() -> Trainer:
    return Trainer(logger=False, enable_progress_bar=False, enable_checkpointing=False, accelerator="cpu")


def cache_of(data: ImageClassification, folder: Path, dtype: str = "fp32") -> kd.TeacherCache:
    return kd.TeacherCache.build(
        network(), data.iterate_once(), folder, ["0", "logits"], dtype=dtype, trainer=quiet(), data=data.cached_as
    )


@pytest.mark.parametrize("mix", [None, Mixup(0.5), CutMix()])
def test_cached_is_live_over_whole_epochs(write_parquet: Write, mix: Any, tmp_path: Path) -> None:
    data = tiny(write_parquet(), mix=mix, views=3, **AUGMENT)
    cache = cache_of(data, tmp_path / "teacher")
    assert len(cache) == 3 * 24
    cached, live = kd.CachedTeacher(cache.path), kd.LiveTeacher(network())
    loader = data.train_dataloader()
    for source in (cached, live):
        source.ask(["0", "logits"])
    for epoch in range(7):
        loader.batch_sampler.set_epoch(epoch)
        for batch in loader:
            one, other = cached(batch), live(batch)
            assert torch.allclose(one["logits"], other["logits"], atol=1e-6)
            assert torch.allclose(one["0"], other["0"], atol=1e-6)


def test_views_come_round(write_parquet: Write) -> None:
    loader = tiny(write_parquet(), views=2, batch_size=24, **AUGMENT).train_dataloader()
    epochs = []
    for epoch in range(3):
        loader.batch_sampler.set_epoch(epoch)
        batch = next(iter(loader))
        epochs.append(batch["pixel_values"][batch["sample_id"].argsort()])
        assert (batch["view_id"] == 2 * batch["sample_id"] + epoch % 2).all()
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize(("other", "part"), [
    ({"views": 4}, "views"),
    ({"augment": [RandomCrop(1), Flip()]}, "augmentation"),
    ({"mix": Mixup(0.3)}, "augmentation"),
    ({"seed": 1}, "augmentation_seed"),
    ({"size": 6}, "data"),
])  # fmt: skip
def test_another_setting_refuses_the_cache_by_name(
    write_parquet: Write, tmp_path: Path, other: dict[str, Any], part: str
) -> None:
    root = write_parquet()
    cache = cache_of(tiny(root, views=3, **AUGMENT), tmp_path / "teacher")
    data = tiny(root, **{"views": 3, **AUGMENT, **other})
    expect = kd.TeacherCache.fingerprint_of(network(), ["0", "logits"], dtype="fp32", data=data.cached_as)
    with pytest.raises(CacheError, match=rf"made from something else: (.*; )?{part} \("):
        kd.CachedTeacher(cache.path, expect=expect)


def test_rows_of_another_augmentation_are_refused_in_the_step_too(write_parquet: Write, tmp_path: Path) -> None:
    root = write_parquet()
    teacher = kd.CachedTeacher(cache_of(tiny(root, views=2, **AUGMENT), tmp_path / "teacher").path)
    teacher.ask(["logits"])
    other = tiny(root, views=2, augment=[RandomCrop(1), Flip()])
    with pytest.raises(CacheError, match=r"View 0 of row \d+ does not look .* another augmentation or number of views"):
        [teacher(batch) for batch in other.train_dataloader()]


@pytest.mark.parametrize("other", [{"mean": [0.1] * 3, "std": [0.2] * 3}, {"teacher_size": 4, "size": 8}])
def test_rows_of_another_normalisation_or_size_are_refused_in_the_step_too(
    write_parquet: Write, tmp_path: Path, other: dict[str, Any]
) -> None:
    root = write_parquet()
    teacher = kd.CachedTeacher(cache_of(tiny(root, views=2, **AUGMENT), tmp_path / "teacher").path)
    teacher.ask(["logits"])
    batch = next(iter(tiny(root, views=2, **AUGMENT, **other).train_dataloader()))
    with pytest.raises(CacheError, match="does not look as it did"):
        teacher(batch)


def test_a_cache_has_no_more_views_than_epochs(write_parquet: Write) -> None:
    data = tiny(write_parquet(), views=8, **AUGMENT)
    assert data.cache_ids(2).tolist() == [8 * row + view for row in range(24) for view in (0, 1)]
    seen = {int(i) for epoch in range(3) for batch in at(data, epoch) for i in batch["view_id"]}
    assert sorted(seen) == data.cache_ids(3).tolist()
    limited = {int(i) for epoch in range(3) for batch in at(data, epoch)[:2] for i in batch["view_id"]}
    assert sorted(limited) == data.visited_rows(3, 2).tolist()


def at(data: ImageClassification, epoch: int) -> list[Any]:
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(epoch)
    return list(loader)


def test_rows_with_numbers_of_their_own_have_the_views_that_a_cache_asks_for() -> None:
    class Reversed(kd.data.RowDataModule):
        def make_rows(self, split: str) -> list[dict[str, Any]]:
            return [{"x": float(row), "sample_id": 5 - row} for row in range(6)]

        def augment_row(self, row: dict[str, Any], random: Any) -> dict[str, Any]:
            return {**row, "x": row["x"] + random.random()}

    data = Reversed(batch_size=2, views=2)
    data.setup()
    assert sorted(int(i) for batch in data.iterate_once() for i in batch["view_id"]) == data.cache_ids().tolist()
    limited = {int(i) for batch in list(data.train_dataloader())[:2] for i in batch["view_id"]}
    assert sorted(limited) == data.visited_rows(1, 2).tolist()
