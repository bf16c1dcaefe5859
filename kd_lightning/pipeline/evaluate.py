"""Evaluation: teachers as they teach, students as they are, on every split that is evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn
from torchmetrics import Metric

from kd_lightning.core.types import Batch, Features
from kd_lightning.data import DataModule
from kd_lightning.data.base import OTHER_SPLITS
from kd_lightning.metrics import BatchMetric, Scores
from kd_lightning.models.inspection import latency_ms
from kd_lightning.pipeline.build import MakeTrainer, parameters
from kd_lightning.pipeline.settings import MEAN
from kd_lightning.pipeline.setup import TaskSetup
from kd_lightning.teachers import TeacherSource
from kd_lightning.training.callbacks import WritePredictions


class TeacherEvaluator(LightningModule):
    """Validates a teacher source on a task's metrics.

    Args:
        teacher: the source.
        metrics: by name.

    """

    def __init__(self, teacher: TeacherSource, metrics: dict[str, Metric]) -> None:
        super().__init__()
        self.teacher = teacher
        self.metrics = Scores(metrics)

    def setup(self, stage: str) -> None:
        """Request the outputs that the metrics read, on the trainer's device."""
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


def evaluate_teachers(setups: Mapping[str, TaskSetup], folder: Path, make_trainer: MakeTrainer) -> dict[str, Any]:
    """Return the teachers' scores, sizes and latency, after checking that student and objective fit them.

    Args:
        setups: the tasks by name.
        folder: predictions are written below it.
        make_trainer: builds a Trainer of a folder and callbacks.

    """
    first = next(iter(setups.values()))
    scores: dict[str, dict[str, float]] = {}
    main: dict[str, float] = {}
    models: list[nn.Module] = []
    for name, setup in setups.items():
        teacher = setup.source()
        assert teacher is not None, "a run without a teacher has nothing to evaluate"
        setup.check(teacher, first.model if len(setups) > 1 else None)
        evaluator = TeacherEvaluator(teacher, setup.task.metrics_for(setup.data))
        home, recorders = folder / name, {"": setup.task.recorder(setup.data)}
        scores[name] = evaluate(make_trainer, evaluator, setup.data, home, recorders)
        main[name] = scores[name][setup.task.metric] / evaluator.metrics.best_values.get(setup.task.metric, 1.0)
        models += teacher.models()
        if name == next(iter(setups)):
            inputs = (setup.task.example_input(model, setup.data, teacher=True) for model in models)
            latencies = [latency_ms(model, example) for model, example in zip(models, inputs, strict=True)]
    known = [latency for latency in latencies if latency is not None]
    return {
        "metrics": _joined(scores, main),
        "parameters": sum(map(parameters, models)),
        "latency_ms": round(sum(known), 3) if known and len(known) == len(latencies) else None,
    }


def _joined(scores: Mapping[str, Mapping[str, float]], main: Mapping[str, float]) -> dict[str, float]:
    """Return one task's metrics as they are, several tasks' as `task/metric`, with the mean of their main ones."""
    if len(scores) == 1:
        return dict(next(iter(scores.values())))
    flat = {f"{task}/{name}": value for task, own in scores.items() for name, value in own.items()}
    return {MEAN: sum(main.values()) / len(main), **flat}


def evaluate(
    make_trainer: MakeTrainer,
    module: LightningModule,
    data: DataModule,
    folder: Path,
    recorders: Mapping[str, BatchMetric | None],
) -> dict[str, float]:
    """Return the metrics on the validation split by their bare names, and those on others as `<split>/<metric>`.

    Args:
        make_trainer: builds a Trainer of a folder and callbacks.
        module: what is evaluated.
        data: its data module.
        folder: predictions are written into `predictions/` there, in the data set's own format.
        recorders: by task, what records the predictions.

    """
    scores: dict[str, float] = {}
    for split in ("validation", *OTHER_SPLITS):
        if split == "validation" or split in data.available_splits:
            own = folder / "predictions" / ("" if split == "validation" else split)
            trainer = make_trainer(folder, [WritePredictions(recorders, own)])
            loader = {"datamodule": data} if split == "validation" else {"dataloaders": data.eval_loader(split)}
            found = trainer.validate(module, **loader, verbose=False)
            prefix = "" if split == "validation" else f"{split}/"
            scores |= {prefix + name.removeprefix("val/"): float(v) for name, v in (found[0] if found else {}).items()}
    return scores
