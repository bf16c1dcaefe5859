"""Two gloo processes: shares are equal, metrics exact, nothing hangs."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC

from kd_lightning.data import EvalBatches, Loader, Padding, TokenRows, TrainBatches

ROWS = 23  # not divisible by two processes, nor by the batch size

pytestmark = pytest.mark.ddp


def rows() -> TokenRows:
    random = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(random.integers(1, 9, ROWS))])
    return TokenRows(
        {"input_ids": random.integers(1, 16, offsets[-1])}, offsets, {"labels": random.integers(0, 2, ROWS)}
    )


def loader(kind: Any) -> Loader:
    return Loader(rows(), kind(rows().lengths, batch_size=3), Padding({"input_ids": 0}))


class Net(torch.nn.Module):
    """Has a buffer, which DDP broadcasts in every forward pass, evaluation included."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(16, 1)
        self.register_buffer("positions", torch.arange(16))

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return (self.embedding(batch["input_ids"]).squeeze(-1) * batch["attention_mask"]).sum(-1)


def scores(model: torch.nn.Module) -> dict[str, float]:
    metrics = {"accuracy": BinaryAccuracy(), "auroc": BinaryAUROC()}
    for batch in loader(EvalBatches):
        with torch.no_grad():
            predicted = model(batch).sigmoid()
        for metric in metrics.values():
            metric.update(predicted, batch["labels"])
    return {name: metric.compute().item() for name, metric in metrics.items()}


def body(rank: int, folder: Path) -> None:
    drawn = {}
    for kind in (TrainBatches, EvalBatches):
        everyone: list[Any] = [None, None]
        distributed.all_gather_object(everyone, [batch["sample_id"].tolist() for batch in loader(kind)])
        drawn[kind.__name__] = everyone
    result = drawn | {"scores": scores(DistributedDataParallel(Net()))}
    torch.save(result, folder / f"{rank}.pt")


def worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    distributed.init_process_group("gloo", rendezvous, timedelta(seconds=600), world_size=2, rank=rank)
    try:
        body(rank, folder)
    finally:
        distributed.destroy_process_group()


@pytest.mark.timeout(120)
def test_shares_are_equal_and_metrics_exact_in_two_processes(tmp_path):
    multiprocessing.start_processes(worker, (tmp_path,), nprocs=2, start_method="forkserver")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first == second
    assert first["scores"] == pytest.approx(scores(Net()), abs=1e-7)

    ours, theirs = first["TrainBatches"]
    assert [len(batch) for batch in ours] == [len(batch) for batch in theirs]
    flat = [row for batch in ours + theirs for row in batch]
    assert (set(flat), len(flat)) == (set(range(ROWS)), ROWS + 1)

    ours, theirs = first["EvalBatches"]
    assert len(ours) == len(theirs)
    assert sorted(row for batch in ours + theirs for row in batch) == list(range(ROWS))


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.accuracy = BinaryAccuracy()
        self.loss = MeanMetric()

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.log("rows", float(len(batch["labels"])), reduce_fx="sum", sync_dist=True, on_step=False, on_epoch=True)
        return torch.nn.functional.binary_cross_entropy_with_logits(self.net(batch), batch["labels"].float())

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        predicted = self.net(batch)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(predicted, batch["labels"].float())
        self.accuracy(predicted.sigmoid(), batch["labels"])
        self.log("accuracy", self.accuracy)
        self.loss(loss, weight=len(batch["labels"]))  # `sync_dist` halves 23 rows to 11
        self.log("loss", self.loss)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def metrics_of(trainer: pl.Trainer) -> dict[str, float]:
    trainer.fit(Module(), loader(TrainBatches), loader(EvalBatches))
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


@pytest.mark.timeout(120)
def test_lightning_leaves_our_loaders_alone_whatever_its_sampler_setting(tmp_path):
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"max_epochs": 1, "accelerator": "cpu", "enable_model_summary": False, "default_root_dir": tmp_path}
    alone = metrics_of(pl.Trainer(**quiet))
    two = metrics_of(pl.Trainer(strategy="ddp_fork", devices=2, use_distributed_sampler=True, **quiet))
    assert (alone["rows"], two["rows"]) == (ROWS, ROWS + 1)
    assert two["accuracy"] == pytest.approx(alone["accuracy"], abs=1e-6)
    assert two["loss"] == pytest.approx(alone["loss"], abs=1e-6)
