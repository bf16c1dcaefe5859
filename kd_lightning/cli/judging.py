"""Scoring teachers as they teach: through their source, whatever that is."""

from __future__ import annotations

from typing import Any

from hydra.utils import instantiate
from lightning.pytorch import LightningModule
from omegaconf import DictConfig
from torch import Tensor
from torchmetrics import MetricCollection

from kd_lightning.batches import required_field
from kd_lightning.functional.precision import widen
from kd_lightning.teachers import TeacherSource
from kd_lightning.types import Batch


class Judge(LightningModule):
    """Validates a teacher source on the task's metrics.

    Args:
        teacher: is asked for its logits.
        metrics: by name.

    """

    def __init__(self, teacher: TeacherSource, metrics: MetricCollection) -> None:
        super().__init__()
        self.teacher = teacher
        self.metrics = metrics

    def setup(self, stage: str) -> None:
        """Ask for logits, on the trainer's device."""
        self.teacher.ask(["logits"])
        self.teacher.to(self.trainer.strategy.root_device)

    def teardown(self, stage: str) -> None:
        """Leave the models as they were found."""
        self.teacher.close()
        self.teacher.to("cpu")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the metrics."""
        logits: Tensor = self.teacher(batch)["logits"]
        self.metrics.update(widen(logits), required_field(batch, "labels"))

    def on_validation_epoch_end(self) -> None:
        """Log the metrics as `val/<name>`."""
        self.log_dict({f"val/{name}": value.float() for name, value in self.metrics.compute().items()})
        self.metrics.reset()


def task_metrics(cfg: DictConfig) -> dict[str, Any]:
    """Build a task's metrics by name, the main one first."""
    names = sorted(map(str, cfg.task.metrics), key=lambda name: name != cfg.task.metric)
    return {name: instantiate(cfg.task.metrics[name]) for name in names}
