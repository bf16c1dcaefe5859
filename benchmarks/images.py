"""A training step on images: ours against a plain Lightning loop over the same model and the same batches.

python -m benchmarks.images DATA [--batch 128] [--rounds 5] [--steps 12]

DATA has `cifar10/{train,test}.parquet`. ResNet-20 teaches ResNet-8. Every contender is trained by a Trainer of its own
for a few steps at a time, in turn; a step is the time from one batch's end to the next one's, loading included. Then
the share of a ResNet-20 step that making a batch takes: reading decoded images, crop, flip, normalising.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

import kd_lightning as kd
from benchmarks import arguments
from benchmarks.report import Row, Target, publish, time_rows, timed_target_rows
from benchmarks.timing import turns

PLAIN, PLAIN_TAUGHT = "plain loop", "plain loop with teacher"
ALONE, LIVE, CACHED = "ours, labels only", "ours, live teacher", "ours, cached views"
PLAIN_20, BATCH = "plain loop, ResNet-20", "making a batch"

TARGETS = (
    Target("labels only / plain loop", ALONE, PLAIN, 1.05),
    Target("live teacher / plain loop with teacher", LIVE, PLAIN_TAUGHT, 1.05),
    Target("cached views / plain loop", CACHED, PLAIN, 1.08),
    Target("making a batch / ResNet-20 step", BATCH, PLAIN_20, 0.03),
)
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True)


class Plain(LightningModule):
    """What one writes without a library: cross entropy, and with a teacher Hinton's soft targets."""

    def __init__(self, student: nn.Module, teacher: nn.Module | None = None) -> None:
        super().__init__()
        self.student = student
        self.__dict__["teacher"] = teacher.eval().requires_grad_(False) if teacher is not None else None

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss, and log it."""
        logits = self.student(batch["pixel_values"])
        loss = F.cross_entropy(logits, batch["labels"])
        if self.teacher is not None:
            with torch.no_grad():
                target = (self.teacher(batch["pixel_values"]) / 4).log_softmax(-1)
            soft = F.kl_div((logits / 4).log_softmax(-1), target, reduction="batchmean", log_target=True)
            loss = 0.1 * loss + 0.9 * 16 * soft
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Make SGD."""
        return SGD(self.student.parameters())


class StepTimes(Callback):
    """Notes the seconds from each batch's end to the next one's, without the first few."""

    def __init__(self, skipped: int = 2) -> None:
        self.skipped = skipped
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        """The seconds of each step."""
        return [end - start for start, end in zip(self.ends, self.ends[1:], strict=False)][self.skipped :]


def objective(soft: bool) -> kd.Objective:
    """Return labels, and soft targets where there is a teacher."""
    hard = kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel(), weight=0.1 if soft else 1.0)
    logits = kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=4.0), weight=0.9)
    return kd.Objective({"hard": hard, "logits": logits} if soft else {"hard": hard})


def modules(cache: Path) -> dict[str, LightningModule]:
    """Return the contenders, students with the same weights."""
    teacher = kd.models.cifar_resnet(20)

    def student() -> nn.Module:
        torch.manual_seed(0)
        return kd.models.cifar_resnet(8)

    return {
        PLAIN: Plain(student()),
        ALONE: kd.DistillationModule(student(), None, objective(soft=False), optimizer=SGD),
        PLAIN_TAUGHT: Plain(student(), teacher),
        LIVE: kd.DistillationModule(student(), teacher, objective(soft=True), optimizer=SGD),
        CACHED: kd.DistillationModule(student(), kd.CachedTeacher(cache), objective(soft=True), optimizer=SGD),
        PLAIN_20: Plain(kd.models.cifar_resnet(20)),
    }


def batch_seconds(data: kd.data.ImageClassification, count: int) -> list[float]:
    """Return the seconds that making each batch takes, after the first."""
    seconds, loader = [], iter(data.train_dataloader())
    for _ in range(count + 1):
        start = time.perf_counter()
        next(loader)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def main(typed: Sequence[str] | None = None) -> Row:
    """Measure, print and write."""
    parser = arguments.parser("images", __doc__, rounds=5, device=False)
    parser.add_argument("data", help="a folder with cifar10/train.parquet")
    parser.add_argument("--batch", type=int, default=128, help="images per batch (128)")
    parser.add_argument("--steps", type=int, default=12, help="steps of each contender in a round (12)")
    given = arguments.parse(parser, typed, batch=4, steps=4, rounds=1)
    data = kd.data.ImageClassification(
        "cifar10",
        root=given.data,
        splits={"train": "train", "validation": "test"},
        limit=given.batch * (given.steps + 1),
        augment=[kd.data.RandomCrop(4), kd.data.Flip()],
        batch_size=given.batch,
        views=2,
    )
    data.setup()
    times: dict[str, list[float]] = {BATCH: []}
    with TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        kd.TeacherCache.build(
            kd.models.cifar_resnet(20), data.iterate_once(), cache, ["logits"], trainer=Trainer(**QUIET)
        )
        contenders = modules(cache)
        for number in range(given.rounds):
            times[BATCH] += batch_seconds(data, given.steps)
            for name in turns(list(contenders), number):
                clock = StepTimes()
                trainer = Trainer(max_steps=given.steps, limit_val_batches=0, callbacks=[clock], **QUIET)
                trainer.fit(contenders[name], data.train_dataloader())
                times.setdefault(name, []).extend(clock.seconds)
    tables = {"rows": time_rows(times, plain=PLAIN), "targets": timed_target_rows(TARGETS, times)}
    return publish("images", given, tables, f"{data.sizes['train']:,} images of CIFAR-10, batches of {given.batch}.")


if __name__ == "__main__":
    main()
