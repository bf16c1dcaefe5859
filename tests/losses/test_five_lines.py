"""Each loss on a LightningModule of one's own: five lines beside it, with layers of PyTorch by module path."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

import kd_lightning as kd
from kd_lightning import losses

QUIET: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "accelerator": "cpu",
}


class Place(NamedTuple):
    """Which modules of the student learn from which of the teacher, and what the term needs beside."""

    student: str | list[str]
    teacher: str | list[str]
    options: dict[str, Any] = {}  # noqa: RUF012


NORM, LAST, DEEP, POOL, LOGITS = "body.1", "body.5", ["body.2", "body.5"], "pool", "logits"
MAPS, VECTORS, ROWS = Place(LAST, LAST), Place(POOL, POOL), Place(LOGITS, LOGITS)
WIDE = Place("body.4", "body.4", {"projection": "conv"})
"""A norm, which tells its width, as an activation does not."""

LOGITS_LOSSES = {
    losses.DIST(): ROWS,
    losses.DKD(): ROWS,
    losses.HardTeacher(): ROWS,
    losses.LogitMSE(): ROWS,
    losses.AnnealedLogits(): ROWS,
    losses.LogitStandardized(): ROWS,
    losses.NKD(): ROWS,
    losses.ProbabilityShift(losses.SoftTarget()): ROWS,
    losses.SoftCrossEntropy(): ROWS,
    losses.SoftLabels(): ROWS,
    losses.SoftTarget(): ROWS,
    losses.TTM(): ROWS,
    losses.WKDL(): Place(LOGITS, "head"),
    losses.WSLD(): ROWS,
}

LABEL_LOSSES = {losses.HardLabel(): Place(LOGITS, "labels")}

MAP_LOSSES = {
    losses.AFD(): WIDE,
    losses.AttentionTransfer(): MAPS,
    losses.ChannelWise(): WIDE,
    losses.CosineRelation(): MAPS,
    losses.EMD(losses.AttentionTransfer()): Place(DEEP, DEEP),
    losses.FSP(): Place(["body.3", "body.4"], ["body.3", "body.4"], {"projection": nn.Conv2d(8, 16, 1)}),
    losses.HiddenCosine(): WIDE,
    losses.HiddenMSE(): WIDE,
    losses.MaskedGenerative(): Place("body.4", "body.4"),
    losses.NST(): Place(DEEP, DEEP),
    losses.NSTMMD(): MAPS,
    losses.Overhaul(): Place(NORM, NORM),
    losses.ReviewKD(): Place(["body.1", "body.4"], ["body.1", "body.4"], {"resize": None}),
    losses.VID(): Place(["body.1", "body.4"], ["body.1", "body.4"]),
    losses.WKDF(): Place("body.4", "body.4"),
}

VECTOR_LOSSES = {
    losses.CorrelationCongruence(): VECTORS,
    losses.IRG(): Place([*DEEP, POOL, LOGITS], [*DEEP, POOL, LOGITS]),
    losses.PKT(): VECTORS,
    losses.RKDAngle(): VECTORS,
    losses.RKDDistance(): VECTORS,
    losses.SimilarityPreserving(): MAPS,
    losses.VkD(): Place("wide", "wide", {"projection": "orthogonal"}),
}

ELSEWHERE = {
    "AttentionCE": "attention maps of transformers",
    "AttentionCEMean": "attention maps of transformers",
    "AttentionKL": "attention maps of transformers",
    "AttentionMSE": "attention maps of transformers",
    "AttentionMSEMean": "attention maps of transformers",
    "AttentionMSESum": "attention maps of transformers",
    "CrossRelations": "queries, keys and values of transformers",
    "DistillationLoss": "the base of all",
    "HardLabels": "several labels per row, which these rows do not have",
    "Identity": "the loss that a Transformers model returns itself",
    "LabelMSE": "labels that are numbers",
    "PKD": "the first token of transformers",
    "SelfRelation": "queries, keys and values of transformers",
}
"""Losses that have nothing to compare in this module, and what they compare."""

CASES = [*(LOGITS_LOSSES | LABEL_LOSSES | MAP_LOSSES | VECTOR_LOSSES).items()]


class Net(nn.Module):
    """Two convolutions with batch norm, a pooled feature, a wider one of it, and a classifier."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.body = nn.Sequential(
            first, nn.BatchNorm2d(width), nn.ReLU(), second, nn.BatchNorm2d(width), nn.ReLU()
        )  # fmt: skip
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.wide = nn.Linear(width, 2 * width)
        self.head = nn.Linear(2 * width, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.wide(self.pool(self.body(images))))


class Mine(LightningModule):
    """Knows nothing of distillation."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net(8)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def rows() -> DataLoader[Any]:
    return DataLoader([(torch.randn(4, 3, 6, 6), torch.tensor([0, 1, 2, 4]))], batch_size=None)


def test_every_loss_is_here_or_says_why_not() -> None:
    assert {type(loss).__name__ for loss, _ in CASES} | ELSEWHERE.keys() == set(losses.__all__)


@pytest.mark.parametrize(("loss", "place"), CASES, ids=[type(loss).__name__ for loss, _ in CASES])
def test_five_lines_add_a_loss_to_a_module_of_ones_own(loss: losses.DistillationLoss, place: Place) -> None:
    torch.manual_seed(0)
    mine = Mine()
    before = {name: value.clone() for name, value in mine.state_dict().items()}

    teacher = Net(16)
    term = kd.Term(kd.Match(place.student, place.teacher), loss, **place.options)
    objective = kd.Objective({"own": term})
    distillation = kd.DistillationCallback(teacher, objective, student="net", task_weight=0.0)
    trainer = Trainer(max_steps=1, callbacks=[distillation], **QUIET)
    trainer.fit(mine, rows())

    assert torch.isfinite(trainer.callback_metrics["distillation/loss/own"])
    changed = {name for name, value in mine.state_dict().items() if not torch.equal(value, before[name])}
    assert "net.body.0.weight" in changed
    assert all(torch.isfinite(value).all() for value in (*objective.state_dict().values(), *mine.parameters()))
