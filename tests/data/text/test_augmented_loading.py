"""Augmented rows under everything that may come between: a kill, workers, several processes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from kd_lightning.data import Delete, LongReorder, Mask, ShortReorder, SyntheticSentiment, TextClassification

from ..test_loader import Noisy, trainer

SOME = [LongReorder(0.3, 0.5), ShortReorder((0.5, 0.5, 0, 0, 0)), Delete(0.3), Mask(0.2, token="[UNK]")]


def films(root: Path, tokenizer: Any, workers: int = 0, augment: Any = SOME) -> TextClassification:
    own = {"tokenizer": tokenizer, "root": root, "cache_dir": root / "cache", "num_workers": workers}
    return TextClassification("films", "sentence", batch_size=4, augment=augment, **own)


class Recorder(Noisy):
    """Also remembers the tokens of each step."""

    def __init__(self, die_at: int | None = None) -> None:
        super().__init__(die_at)
        self.tokens: list[list[list[int]]] = []

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.tokens.append(batch["input_ids"].tolist())
        return loss


@pytest.fixture
def whole(root: Path, tokenizer: Any, tmp_path: Path) -> Recorder:
    """A run of two epochs of ten steps without interruption."""
    run = Recorder()
    trainer(tmp_path / "whole").fit(run, films(root, tokenizer))
    return run


def same_weights(one: Recorder, other: Recorder) -> bool:
    return all(torch.equal(weight, other.state_dict()[name]) for name, weight in one.state_dict().items())


@pytest.mark.parametrize(("workers", "die_at"), [(0, 5), (0, 14), pytest.param(2, 17, marks=pytest.mark.slow)])
def test_a_run_stopped_in_an_epoch_and_resumed_ends_bit_equal(root, tokenizer, tmp_path, whole, workers, die_at):
    with pytest.raises(RuntimeError, match="cut"):
        trainer(tmp_path / "cut").fit(Recorder(die_at), films(root, tokenizer, workers))
    resumed = Recorder()
    last = tmp_path / "cut" / "last.ckpt"
    trainer(tmp_path / "cut").fit(resumed, films(root, tokenizer, workers), ckpt_path=last, weights_only=True)
    assert resumed.tokens == whole.tokens[die_at // 3 * 3 :]
    assert same_weights(whole, resumed)


def test_workers_that_persist_make_the_batches_that_none_would(root, tokenizer, tmp_path, whole):
    other, plain = Recorder(), Recorder()
    trainer(tmp_path / "other").fit(other, films(root, tokenizer, workers=2))
    trainer(tmp_path / "plain").fit(plain, films(root, tokenizer, augment=None))
    assert other.tokens == whole.tokens
    assert same_weights(whole, other)
    assert plain.seen == whole.seen
    assert not same_weights(whole, plain)


# -- two gloo processes --------------------------------------------------------------------------------------------


def rows_seen(workers: int = 0) -> dict[tuple[int, int], list[int]]:
    """Return this process's training rows by (row, epoch)."""
    sizes = {"train_size": 23, "validation_size": 4, "batch_size": 3}
    loader = SyntheticSentiment(**sizes, augment=SOME, num_workers=workers).train_dataloader()
    found = {}
    for epoch in (0, 1):
        loader.batch_sampler.set_epoch(epoch)
        for batch in loader:
            lengths = batch["attention_mask"].sum(-1).tolist()
            for row, ids, length in zip(batch["sample_id"].tolist(), batch["input_ids"], lengths, strict=True):
                found[row, epoch] = ids[:length].tolist()
    return found


def rank_of_two(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    np.random.seed(rank)  # noise from elsewhere must not matter
    rendezvous = f"file://{folder}/rendezvous"
    distributed.init_process_group("gloo", rendezvous, timedelta(seconds=600), world_size=2, rank=rank)
    try:
        torch.save(rows_seen(workers=rank), folder / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()


@pytest.mark.ddp
@pytest.mark.timeout(120)
def test_two_processes_see_what_one_would(tmp_path):
    multiprocessing.start_processes(rank_of_two, (tmp_path,), nprocs=2, start_method="forkserver")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    alone = rows_seen()
    assert len(alone) == 46
    assert first.keys() | second.keys() == alone.keys()
    assert first.keys() != second.keys()
    for share in (first, second):
        assert all(alone[key] == ids for key, ids in share.items())
