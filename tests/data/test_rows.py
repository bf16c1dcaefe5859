"""A data module of a user's own: rows that are no tokens, with the same resume as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from kd_lightning.core.errors import DataError
from kd_lightning.data import DataModule, MultiTask, RowDataModule
from kd_lightning.tasks import ClassificationTask
from kd_lightning.training.callbacks.step_seed import StepSeed

SIZES = {"train": 26, "validation": 7, "test": 5}


class Images(RowDataModule):
    """Random images of three classes, flipped at random in training."""

    num_labels = 3
    classes = ["cat", "dog", "ship"]  # noqa: RUF012 (as a user would write it)
    available_splits = tuple(SIZES)  # type: ignore[assignment]

    def make_rows(self, split: str) -> Any:
        random = torch.Generator().manual_seed(len(split))
        pixels = torch.rand(SIZES[split], 3, 8, 8, generator=random)
        return [{"pixel_values": image, "labels": row % 3} for row, image in enumerate(pixels)]

    def augment_row(self, row: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
        return row | {"pixel_values": row["pixel_values"].flip(-1)} if random.random() < 0.5 else row


class ConvNet(pl.LightningModule):
    def __init__(self, die_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(288, 3))
        self.die_at = die_at
        self.seen: list[list[int]] = []

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        if len(self.seen) == self.die_at:
            raise RuntimeError("cut")
        self.seen.append(batch["sample_id"].tolist())
        return nn.functional.cross_entropy(self.net(batch["pixel_values"]), batch["labels"])

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        self.log("val/loss", nn.functional.cross_entropy(self.net(batch["pixel_values"]), batch["labels"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def trainer(folder: Path) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    saver = ModelCheckpoint(folder, save_last=True, every_n_train_steps=3, save_top_k=0)
    return pl.Trainer(max_epochs=2, callbacks=[StepSeed(0), saver], **quiet)  # type: ignore[arg-type]


@pytest.mark.parametrize("die_at", [5, 9])  # of 14 steps; checkpoints after 3, 6, …
def test_images_resume_in_mid_epoch_bit_equal(tmp_path: Path, die_at: int) -> None:
    whole = ConvNet()
    trainer(tmp_path / "whole").fit(whole, datamodule=Images(batch_size=4))
    with pytest.raises(RuntimeError, match="cut"):
        trainer(tmp_path / "cut").fit(ConvNet(die_at), datamodule=Images(batch_size=4))
    resumed = ConvNet()
    last = tmp_path / "cut" / "last.ckpt"
    trainer(tmp_path / "cut").fit(resumed, datamodule=Images(batch_size=4), ckpt_path=last, weights_only=True)
    assert resumed.seen == whole.seen[die_at // 3 * 3 :]
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_augmentation_is_a_function_of_seed_epoch_and_row() -> None:
    rows, again, other = (Images(seed=seed).train_dataset() for seed in (0, 0, 1))
    flipped = {
        (row, epoch): not torch.equal(rows[row, epoch]["pixel_values"], rows.rows[row]["pixel_values"])
        for row in range(26)
        for epoch in range(3)
    }
    assert 0 < sum(flipped.values()) < len(flipped)
    assert all(torch.equal(rows[key]["pixel_values"], again[key]["pixel_values"]) for key in flipped)
    assert any(not torch.equal(rows[key]["pixel_values"], other[key]["pixel_values"]) for key in flipped)


def test_a_cache_is_built_from_rows_without_augmentation() -> None:
    data = Images()
    for batch in data.iterate_once(np.array([3, 8])):
        assert batch["sample_id"].tolist() == [3, 8]
        assert torch.equal(batch["pixel_values"], torch.stack([data.rows("train")[i]["pixel_values"] for i in (3, 8)]))
    assert sorted(row for batch in data.iterate_once() for row in batch["sample_id"].tolist()) == list(range(26))


def test_rows_that_a_cut_run_trains_on(tmp_path: Path) -> None:
    data, module = Images(batch_size=4), ConvNet()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    short = pl.Trainer(max_epochs=2, limit_train_batches=2, enable_checkpointing=False, **quiet)  # type: ignore[arg-type]
    short.fit(module, datamodule=data)
    assert data.visited_rows(2, 2).tolist() == sorted({row for batch in module.seen for row in batch})


def test_every_split_is_evaluated_once_and_batches_of_others_than_validation_say_which() -> None:
    data = Images(eval_batch_size=4)
    assert [len(batch["labels"]) for batch in data.val_dataloader()] == [4, 3]
    assert {batch["split"] for batch in data.eval_loader("test")} == {"test"}
    assert data.eval_loader("mismatched") == []
    assert data.sizes == SIZES


def test_the_fingerprint_is_of_the_rows_and_of_nothing_else() -> None:
    class Others(Images):
        def make_rows(self, split: str) -> Any:
            rows = super().make_rows(split)
            rows[0]["labels"] = 2
            return rows

    assert Images(batch_size=2, seed=3).fingerprint == Images().fingerprint
    assert Others().fingerprint != Images().fingerprint


def test_rows_of_which_there_is_no_fingerprint_are_an_error_that_names_the_property() -> None:
    class Odd(RowDataModule):
        def make_rows(self, split: str) -> Any:
            return [{"x": object()}]

    with pytest.raises(DataError, match=r"Rows of Odd hold object.*write the property `fingerprint`"):
        _ = Odd().fingerprint


def test_rows_that_are_no_dicts_are_an_error() -> None:
    class Pairs(RowDataModule):
        def make_rows(self, split: str) -> Any:
            return [(torch.zeros(2), 1)]

    with pytest.raises(DataError, match=r"Rows are dicts .* make_rows\('train'\) returned a dataset of tuple"):
        Pairs().setup()


def test_images_are_one_task_of_several() -> None:
    data = MultiTask({"a": Images(batch_size=4), "b": Images(batch_size=4, seed=1)})
    data.setup()
    assert {batch["task"] for batch in data.train_dataloader()} == {"a", "b"}


def test_members_that_a_plain_data_module_gets() -> None:
    class Mine(DataModule):
        def train_dataloader(self) -> str:
            return "train"

        def val_dataloader(self) -> str:
            return "validation"

    data = Mine()
    assert (data.eval_loader("validation"), data.eval_loader("test"), data.iterate_once()) == (
        "validation",
        [],
        "train",
    )
    assert (data.train_rows, data.visited_rows(1, 2), data.sizes) == (None, None, {})
    with pytest.raises(DataError, match="Mine has no fingerprint"):
        _ = data.fingerprint
    with pytest.raises(DataError, match="Mine needs no tokenizer or image processor, but was given 'bert'"):
        data.load_processor("bert")


def test_the_teachers_processor_is_the_students_where_it_has_none() -> None:
    data = Images()
    data.set_processors(None)
    assert data.processor is None
    data.set_processors("theirs")
    data.set_processors("another")
    assert (data.processor, data.teacher_processor) == ("theirs", None)
    assert ClassificationTask("accuracy").model_options(data)["id2label"] == {0: "cat", 1: "dog", 2: "ship"}
