"""Scoring: teachers as they teach, students as they are, on every split that is evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch import LightningModule
from omegaconf import DictConfig, OmegaConf
from torchmetrics import Metric

from kd_lightning.cli.build import scoring_trainer
from kd_lightning.core.types import Batch, Features
from kd_lightning.data.base import OTHER_SPLITS
from kd_lightning.metrics import Scores
from kd_lightning.metrics.collection import names_of
from kd_lightning.teachers import TeacherSource
from kd_lightning.training.callbacks.predictions import WritePredictions


class Judge(LightningModule):
    """Validates a teacher source on the task's metrics.

    Args:
        teacher: is asked for what they read.
        metrics: by name.

    """

    def __init__(self, teacher: TeacherSource, metrics: dict[str, Metric]) -> None:
        super().__init__()
        self.teacher = teacher
        self.metrics = Scores(metrics)

    def setup(self, stage: str) -> None:
        """Ask for what the metrics read, on the trainer's device."""
        self.teacher.ask(self.metrics.addresses)
        self.teacher.to(self.trainer.strategy.root_device)

    def teardown(self, stage: str) -> None:
        """Leave the models as they were found."""
        self.teacher.close()
        self.teacher.to("cpu")

    def validation_step(self, batch: Batch, batch_idx: int) -> Features:
        """Update the metrics."""
        features = self.teacher(batch)
        self.metrics.update(features, batch)
        return features

    def on_validation_epoch_end(self) -> None:
        """Log the metrics as `val/<name>`."""
        self.log_dict({f"val/{name}": value for name, value in self.metrics.compute().items()})
        self.metrics.reset()


def task_metrics(cfg: DictConfig, data: Any = None) -> dict[str, Metric]:
    """Build a task's metrics by name, the main one first.

    Args:
        cfg: the task's configuration; a metric that is a `partial` is called with the data module.
        data: the data module.

    """
    if data is not None and "num_labels" in cfg.data and cfg.data.num_labels is None:  # found in the training rows
        cfg = OmegaConf.merge(cfg, {"data": {"num_labels": data.num_labels}})  # type: ignore[assignment]
    made = {str(name): instantiate(node) for name, node in cfg.task.metrics.items()}
    built = {name: metric(data) if isinstance(metric, partial) else metric for name, metric in made.items()}
    return dict(sorted(built.items(), key=lambda item: cfg.task.metric not in names_of(*item)))


def score(
    cfg: DictConfig, module: LightningModule, data: Any, folder: Path, recorders: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """Return the metrics on the validation split by their bare names, and those on others as `<split>/<metric>`.

    Args:
        cfg: the configuration, for its trainer.
        module: what is scored.
        data: its data module.
        folder: what is predicted is written into `predictions/` there, as the data set's own format has it.
        recorders: by task, what notes the predictions.

    """
    scores: dict[str, float] = {}
    for split in ("validation", *OTHER_SPLITS):
        if split == "validation" or split in data.available_splits:
            own = folder / "predictions" / ("" if split == "validation" else split)
            trainer = scoring_trainer(cfg, folder, [WritePredictions(recorders or {}, own)])
            loader = {"datamodule": data} if split == "validation" else {"dataloaders": data.eval_loader(split)}
            found = trainer.validate(module, **loader, verbose=False)
            prefix = "" if split == "validation" else f"{split}/"
            scores |= {prefix + name.removeprefix("val/"): float(v) for name, v in (found[0] if found else {}).items()}
    return scores
