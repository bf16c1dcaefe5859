"""Whole training loops on SST-2, stretch by stretch: ours by Lightning's Trainer, theirs by TextBrewer's `train`."""

from __future__ import annotations

import contextlib
import copy
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, seed_everything

import kd_lightning as kd
from benchmarks import ours, peers
from benchmarks.corpus import Corpus
from benchmarks.setting import RATE, matched_pairs


class Stretch(NamedTuple):
    """What some training steps took, in seconds: the loop over batches, and what came before and after it."""

    loop: float
    around: float


@dataclass(frozen=True)
class Models:
    """Teacher and student of all contenders; each trains a copy of the student."""

    teacher: Any
    student: Any

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Matched layers."""
        return matched_pairs(self.student.config.num_hidden_layers, self.teacher.config.num_hidden_layers)

    def live(self) -> kd.LiveTeacher:
        """Return a teacher of ours, in bfloat16."""
        return kd.LiveTeacher(copy.deepcopy(self.teacher), precision="bfloat16")

    def module(self, teacher: kd.TeacherSource) -> kd.DistillationModule:
        """Return our module."""
        optimizer = partial(torch.optim.AdamW, lr=RATE, fused=True)
        student = copy.deepcopy(self.student).train()
        return kd.DistillationModule(student, teacher, ours.make_objective(self.pairs), optimizer=optimizer)

    def distiller(self, device: str = "cpu", kind: Any = peers.GeneralDistiller) -> Any:
        """Return TextBrewer's distiller."""
        teacher = copy.deepcopy(self.teacher).to(device)
        return peers.make_distiller(teacher, copy.deepcopy(self.student).to(device), self.pairs, device, kind)


def load_models(folder: Path, seed: int = 0) -> Models:
    """Return the fine-tuned teacher in a folder, and T4-tiny with random weights."""
    from transformers import AutoModelForSequenceClassification

    teacher = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    seed_everything(seed, verbose=False)
    return Models(teacher, kd.students.t4_tiny(teacher, num_labels=2))


class LoopClock(Callback):
    """Notes when the first epoch of a fit starts and ends."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start."""
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop."""
        self.seconds = time.perf_counter() - self.start


def train_ours(module: kd.DistillationModule, loader: Any, device: str, precision: str) -> Stretch:
    """Train by a Trainer of its own; setting it up and tearing it down is `around`."""
    clock, start = LoopClock(), time.perf_counter()
    trainer = ours.quiet_trainer(
        max_epochs=1, precision=precision, callbacks=[clock], accelerator="cpu" if device == "cpu" else "gpu"
    )
    trainer.fit(module, loader)
    return Stretch(clock.seconds, time.perf_counter() - start - clock.seconds)


def train_theirs(distiller: Any, loader: Any) -> Stretch:
    """Train by TextBrewer's own loop, without callback, checkpoints, logs and progress bar."""
    start = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()), distiller:
        distiller.train(peers.make_optimizer(distiller.model_S), loader, num_epochs=1, **peers.SHOWN)
    return Stretch(time.perf_counter() - start, 0.0)


Train = Callable[[Sequence[list[int]]], Stretch]
"""Trains on planned batches."""


def ours_live(models: Models, corpus: Corpus, device: str, precision: str) -> Train:
    """Return our training with a live teacher."""
    module = models.module(models.live())
    return lambda plan: train_ours(module, corpus.grouped(plan), device, precision)


def ours_cached(models: Models, corpus: Corpus, device: str, precision: str, path: Path) -> Train:
    """Return our training from a cache."""
    module = models.module(kd.CachedTeacher(path))
    return lambda plan: train_ours(module, corpus.grouped(plan), device, precision)


def theirs_grouped(models: Models, corpus: Corpus, device: str) -> Train:
    """Return TextBrewer's training on the batches that ours gets."""
    distiller = models.distiller(device)
    return lambda plan: train_theirs(distiller, corpus.grouped(plan, bare=True))


def theirs_padded(models: Models, corpus: Corpus, device: str) -> Train:
    """Return TextBrewer's training on as many shuffled batches, padded to one length."""
    distiller = models.distiller(device)
    rows = corpus.padded_rows()
    return lambda plan: train_theirs(distiller, corpus.padded(rows, len(plan)))


def build_cache(models: Models, corpus: Corpus, plan: Sequence[list[int]], device: str, path: Path) -> float:
    """Build a cache of the planned rows and return the seconds."""
    addresses = ["logits", *(f"hidden.{t}" for _, t in models.pairs)]
    trainer = ours.quiet_trainer(accelerator="cpu" if device == "cpu" else "gpu")
    start = time.perf_counter()
    kd.TeacherCache.build(models.live(), corpus.grouped(plan), path, addresses, trainer=trainer)
    return time.perf_counter() - start
