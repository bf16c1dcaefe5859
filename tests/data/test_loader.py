from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from kd_lightning.core.errors import DataError
from kd_lightning.data import Loader, TextClassification, TrainBatches
from kd_lightning.training.callbacks.step_seed import StepSeed

LENGTHS = [3, 9, 4, 8, 5, 3, 7, 6, 2, 5, 4, 6, 8]


def loader(workers: int = 0, size: int = 2) -> Loader:
    return Loader(list(range(13)), TrainBatches(LENGTHS, size), collate=list, num_workers=workers)


def epochs(loader: Loader, numbers: list[int]) -> list[list[int]]:
    drawn = []
    for number in numbers:
        loader.batch_sampler.set_epoch(number)
        drawn += list(loader)
    return drawn


@pytest.mark.parametrize(("workers", "stop"), [(0, stop) for stop in range(1, 7)] + [(2, 1), (2, 4)])
def test_resuming_anywhere_gives_the_rest_of_the_uninterrupted_order(workers, stop):
    whole = epochs(loader(), [3, 4])
    cut = loader(workers)
    cut.batch_sampler.set_epoch(3)
    for seen, batch in enumerate(cut, start=1):
        assert batch == whole[seen - 1]
        if seen == stop:
            break
    resumed = loader(workers)
    resumed.load_state_dict(cut.state_dict())
    assert epochs(resumed, [3, 4]) == whole[stop:]


def test_an_epoch_cut_short_on_purpose_does_not_shorten_the_next():
    cut = loader()
    for _, _ in zip(range(3), cut, strict=False):
        pass
    resumed = loader()
    resumed.load_state_dict(cut.state_dict())
    resumed.batch_sampler.set_epoch(1)
    assert list(resumed) == epochs(loader(), [1])


def test_the_end_of_an_epoch_resumes_at_the_start_of_the_next():
    done = loader()
    list(done)
    resumed = loader()
    resumed.load_state_dict(done.state_dict())
    assert epochs(resumed, [1]) == epochs(loader(), [1])


def test_a_place_in_other_data_is_an_error():
    state = loader().state_dict()
    with pytest.raises(DataError, match="batch 0 of 7, but an epoch has 5 batches now"):
        loader(size=3).load_state_dict(state)


class Noisy(pl.LightningModule):
    """Embeds, drops out, and remembers which rows each step saw."""

    def __init__(self, die_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(16, 8)
        self.head = torch.nn.Linear(8, 2)
        self.die_at = die_at
        self.seen: list[list[int]] = []

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        if len(self.seen) == self.die_at:
            raise RuntimeError("cut")
        self.seen.append(batch["sample_id"].tolist())
        hidden = torch.nn.functional.dropout(self.embedding(batch["input_ids"]), 0.5).mean(1)
        return torch.nn.functional.cross_entropy(self.head(hidden), batch["labels"])

    def predict_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> list[int]:
        return batch["sample_id"].tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.05)


def trainer(folder: Path, **settings: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    saver = ModelCheckpoint(folder, save_last=True, every_n_train_steps=3, save_top_k=0)
    return pl.Trainer(max_epochs=2, callbacks=[StepSeed(0), saver], **(quiet | settings))


def data(root: Path, tokenizer: Any, workers: int = 0) -> TextClassification:
    return TextClassification(
        "films", "sentence", tokenizer=tokenizer, root=root, batch_size=4, num_workers=workers, cache_dir=root / "cache"
    )


@pytest.mark.parametrize(("workers", "die_at"), [(0, 5), (0, 9), (0, 12), (2, 17)])
def test_a_run_stopped_anywhere_and_resumed_ends_bit_equal(root, tokenizer, tmp_path, workers, die_at):
    whole = Noisy()
    trainer(tmp_path / "whole").fit(whole, data(root, tokenizer))
    with pytest.raises(RuntimeError, match="cut"):  # 10 steps per epoch, checkpoints after 3, 6, …
        trainer(tmp_path / "cut").fit(Noisy(die_at), data(root, tokenizer, workers))
    resumed = Noisy()
    saved = die_at // 3 * 3
    trainer(tmp_path / "cut").fit(
        resumed, data(root, tokenizer, workers), ckpt_path=tmp_path / "cut" / "last.ckpt", weights_only=True
    )
    assert resumed.seen == whole.seen[saved:]
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_predicting_on_training_batches_sees_every_row(root, tokenizer, tmp_path):
    rows = trainer(tmp_path).predict(Noisy(), data(root, tokenizer).train_dataloader())
    assert sorted(sample for batch in rows for sample in batch) == list(range(40))


def test_overfitting_sees_the_same_batches_every_epoch(root, tokenizer, tmp_path):
    module = Noisy()
    trainer(tmp_path, overfit_batches=2).fit(module, data(root, tokenizer))
    assert module.seen[:2] == module.seen[2:]
