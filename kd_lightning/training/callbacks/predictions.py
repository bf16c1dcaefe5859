"""Writes what a model predicts on the validation split, in the data set's own format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from kd_lightning.core.types import Batch
from kd_lightning.metrics import BatchMetric


class WritePredictions(Callback):
    """Records what a module returns from its validation steps, and writes it after each validation.

    Args:
        recorders: recorders of predictions by task; the name is "" in a run of one task. None records nothing.
        folder: where to write; several tasks have a folder each.

    Example:
        >>> WritePredictions({"": None}, Path("predictions")).recorders
        {}

    """

    def __init__(self, recorders: Mapping[str, BatchMetric | None], folder: Path) -> None:
        self.recorders = {task: recorder for task, recorder in recorders.items() if recorder is not None}
        self.folder = folder

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the recorders, on the module's device."""
        for recorder in self.recorders.values():
            recorder.to(pl_module.device).reset()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Record a batch's predictions."""
        task = batch.get("task", "") if isinstance(batch, Mapping) else ""
        if task in self.recorders:
            self.recorders[task].update(outputs, batch)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the predictions of all processes, and write them."""
        for task, recorder in self.recorders.items():
            recorder.compute()
            if trainer.is_global_zero:
                (self.folder / task).mkdir(parents=True, exist_ok=True)
                recorder.write(self.folder / task)
