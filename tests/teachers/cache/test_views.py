"""Cached views of augmented text: what a live teacher would return, over whole epochs, for several tasks too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

import kd_lightning as kd
from kd_lightning.core.errors import CacheError
from kd_lightning.data import Delete, MultiTask, ShortReorder, SyntheticSentiment

from ...toys import bert


def films(seed: int = 0, views: int | None = 2) -> SyntheticSentiment:
    data = SyntheticSentiment(30, 6, seed=seed, batch_size=8, augment=[Delete(0.3), ShortReorder()])
    data.views = views
    data.setup()
    return data


def teacher() -> Any:
    return bert(2, vocab_size=len(films().tokenizer), labels=2, max_position_embeddings=64).eval()


def cache_of(data: SyntheticSentiment, folder: Path) -> kd.TeacherCache:
    quiet = Trainer(logger=False, enable_progress_bar=False, enable_checkpointing=False, accelerator="cpu")
    addresses, rows = ["logits", "hidden.1"], data.iterate_once()
    return kd.TeacherCache.build(teacher(), rows, folder, addresses, dtype="fp32", trainer=quiet, data=data.cached_as)


def sources(folder: Path) -> list[kd.TeacherSource]:
    both: list[kd.TeacherSource] = [kd.CachedTeacher(folder), kd.LiveTeacher(teacher())]
    for source in both:
        source.ask(["logits", "hidden.1"])
    return both


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], batch: Any) -> bool:
    real = batch["attention_mask"].bool()
    hidden = torch.allclose(one["hidden.1"][real], other["hidden.1"][real], atol=1e-5)
    return hidden and torch.allclose(one["logits"], other["logits"], atol=1e-5)


def test_cached_is_live_over_whole_epochs(tmp_path: Path) -> None:
    data = films()
    cache_of(data, tmp_path / "cache")
    cached, live = sources(tmp_path / "cache")
    loader = data.train_dataloader()
    for epoch in range(3):
        loader.batch_sampler.set_epoch(epoch)
        for batch in loader:
            assert same(cached(batch), live(batch), batch)


def test_without_views_the_batches_are_those_of_the_epoch() -> None:
    endless, round_ = films(views=None).train_dataloader(), films(views=2).train_dataloader()
    for epoch, equal in enumerate((True, True, False)):
        endless.batch_sampler.set_epoch(epoch)
        round_.batch_sampler.set_epoch(epoch)
        pairs = [(one["input_ids"], other["input_ids"]) for one, other in zip(endless, round_, strict=True)]
        assert all(torch.equal(*pair) for pair in pairs if pair[0].shape == pair[1].shape) is equal


def test_several_tasks_each_have_views_of_their_own(tmp_path: Path) -> None:
    own = {"one": films(), "other": films(seed=1, views=3)}
    for name, data in own.items():
        cache_of(data, tmp_path / name)
    pairs = {name: sources(tmp_path / name) for name in own}
    mixed = MultiTask(own, steps=6)
    loader = mixed.train_dataloader()
    for epoch in range(4):
        loader.batch_sampler.set_epoch(epoch)
        for batch in loader:
            cached, live = pairs[batch["task"]]
            assert same(cached(batch), live(batch), batch)


def test_a_row_without_views_is_not_taken_for_one_with(tmp_path: Path) -> None:
    cached, _ = sources(cache_of(films(), tmp_path / "cache").path)
    with pytest.raises(CacheError, match="does not look as it did"):
        [cached(batch) for batch in films(views=None).train_dataloader()]
