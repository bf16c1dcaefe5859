"""Training until a validation accuracy is reached: ours and TextBrewer, on the same batches from the same weights."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, seed_everything
from textbrewer import GeneralDistiller

from benchmarks import ours, peers
from benchmarks.corpus import Corpus
from benchmarks.models import Batch
from benchmarks.report import Row
from benchmarks.trainings import Models

THEIRS = "TextBrewer"


class Reached(Exception):
    """The accuracy is reached; how TextBrewer's loop is left."""


class Watch:
    """Validates every so many steps and counts training seconds alone.

    Args:
        batches: for validation.
        goal: the accuracy that ends the race.
        every: steps between validations.
        device: where the model is.
        clock: returns seconds.

    """

    def __init__(
        self,
        batches: Sequence[Batch],
        goal: float,
        every: int,
        device: str = "cpu",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.batches, self.goal, self.every, self.device, self.clock = batches, goal, every, device, clock
        self.steps, self.seconds, self.best, self.reached = 0, 0.0, 0.0, False
        self._since = clock()

    def step(self, model: Any) -> bool:
        """Count a step; return whether the race is over."""
        self.steps += 1
        if self.steps % self.every == 0:
            self.seconds += self.clock() - self._since
            accuracy = accuracy_of(model, self.batches, self.device)
            self.best, self.reached = max(self.best, accuracy), accuracy >= self.goal
            self._since = self.clock()
        return self.reached

    def row(self, name: str) -> Row:
        """Return what came of it."""
        spent = self.seconds if self.steps % self.every == 0 else self.seconds + self.clock() - self._since
        found = {"reached": self.reached, "train s": spent, "steps": self.steps, "best accuracy": self.best}
        return {"contender": name, "goal": self.goal, **found}


def accuracy_of(model: Any, batches: Sequence[Batch], device: str = "cpu") -> float:
    """Return a model's share of right answers; it is left in the mode it was in."""
    was_training, right, rows = model.training, 0, 0
    model.eval()
    with torch.no_grad(), torch.autocast(device.partition(":")[0], enabled=False):
        for batch in batches:
            inputs = {name: value.to(device) for name, value in batch.items()}
            labels = inputs.pop("labels")
            right += int((model(**inputs).logits.argmax(-1) == labels).sum())
            rows += len(labels)
    model.train(was_training)
    return right / rows


class Watched(GeneralDistiller):
    """TextBrewer's distiller under a watch, which looks before the next step what the last has made of the student."""

    watch: Watch

    def train_on_batch(self, batch: Any, args: Any) -> Any:
        """Train, unless the race is over."""
        if self.started and self.watch.step(self.model_S):
            raise Reached
        self.started = True
        return super().train_on_batch(batch, args)

    started = False


class WatchCallback(Callback):
    """Puts our training under a watch."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        """Count the step; stop where the race is over."""
        if self.watch.step(pl_module.student):
            trainer.should_stop = True


def run_theirs(models: Models, corpus: Corpus, watch: Callable[[], Watch], epochs: int, device: str) -> Row:
    """Let TextBrewer train."""
    distiller = models.distiller(device, Watched)
    optimizer, loader = peers.make_optimizer(distiller.model_S), corpus.epochs()
    distiller.watch = found = watch()
    with contextlib.suppress(Reached), contextlib.redirect_stderr(io.StringIO()), distiller:
        distiller.train(optimizer, loader, num_epochs=epochs, **peers.SHOWN)
        found.step(distiller.model_S)  # the last one
    return found.row(THEIRS)


def run_ours(
    models: Models, corpus: Corpus, watch: Callable[[], Watch], epochs: int, device: str, precision: str
) -> Row:
    """Train with a live teacher in Lightning's Trainer."""
    module = models.module(models.live())
    loader = corpus.data.train_dataloader()
    found = watch()
    trainer = ours.quiet_trainer(
        max_epochs=epochs,
        precision=precision,
        callbacks=[WatchCallback(found)],
        accelerator="cpu" if device == "cpu" else "gpu",
    )
    trainer.fit(module, loader)
    return found.row(f"live, {precision}")


def race(
    models: Models, corpus: Corpus, goal: float, every: int, epochs: int, device: str, precisions: Sequence[str]
) -> list[Row]:
    """Return a row per contender, each trained until the goal or to the end; ratios are to TextBrewer's seconds."""
    batches = corpus.validation()
    rows = []
    for precision in (None, *precisions):
        seed_everything(0, verbose=False)
        here = (models, corpus, lambda: Watch(batches, goal, every, device), epochs, device)
        rows.append(run_theirs(*here) if precision is None else run_ours(*here, precision))
    for row in rows:
        both = row["reached"] and rows[0]["reached"]
        row["ratio to TextBrewer"] = row["train s"] / rows[0]["train s"] if both else None
    return rows
