"""Evaluation: teachers as they teach, students as they are, on every split that is chosen on or reported."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn
from torchmetrics import Metric

from kd_lightning.core.types import Batch, Features
from kd_lightning.data import DataModule
from kd_lightning.metrics import BatchMetric, Scores
from kd_lightning.models.inspection import latency_ms
from kd_lightning.pipeline.build import MakeTrainer, parameters
from kd_lightning.pipeline.settings import MEAN
from kd_lightning.pipeline.setup import TaskSetup
from kd_lightning.teachers import TeacherSource
from kd_lightning.training.callbacks import WritePredictions

log = logging.getLogger(__name__)


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


def evaluate_teachers(
    setups: Mapping[str, TaskSetup], folder: Path, make_trainer: MakeTrainer, as_teachers: bool = True
) -> dict[str, Any]:
    """Return the teachers' scores, sizes and latency, after checking that student and objective fit them.

    Args:
        setups: the tasks by name.
        folder: predictions are written below it.
        make_trainer: builds a Trainer of a folder and callbacks.
        as_teachers: whether they are going to teach, and so must fit.

    """
    first = next(iter(setups.values()))
    found: dict[str, dict[str, dict[str, float]]] = {}
    mains: dict[str, tuple[str, float]] = {}
    models: list[nn.Module] = []
    for name, setup in setups.items():
        teacher = setup.source()
        assert teacher is not None, "a run without a teacher has nothing to evaluate"
        if as_teachers:
            setup.check(teacher, first.model if len(setups) > 1 else None)
        evaluator = TeacherEvaluator(teacher, setup.task.metrics_for(setup.data))
        home, recorders = folder / name, {"": setup.task.recorder(setup.data)}
        found[name] = evaluate(make_trainer, evaluator, setup.data, home, recorders)
        mains[name] = setup.task.metric, evaluator.metrics.best_values.get(setup.task.metric, 1.0)
        models += teacher.models()
        if name == next(iter(setups)):
            inputs = (setup.task.example_input(model, setup.data, teacher=True) for model in models)
            latencies = [latency_ms(model, example) for model, example in zip(models, inputs, strict=True)]
    known = [latency for latency in latencies if latency is not None]
    return {
        **_joined(found, mains),
        "parameters": sum(map(parameters, models)),
        "latency_ms": round(sum(known), 3) if known and len(known) == len(latencies) else None,
    }


def _joined(
    found: Mapping[str, Mapping[str, Mapping[str, float]]], mains: Mapping[str, tuple[str, float]]
) -> dict[str, dict[str, float]]:
    """Return the entries of all tasks; those of a task that holds no rows out were chosen on what it reports."""
    joined = {"metrics": _flat({task: own["metrics"] for task, own in found.items()}, mains)}
    if any("selection" in own for own in found.values()):
        joined["selection"] = _flat({task: _chosen(own) for task, own in found.items()}, mains)
    return joined


def _chosen(own: Mapping[str, Mapping[str, float]]) -> Mapping[str, float]:
    """Return a task's scores on what its checkpoints were chosen on."""
    return own.get("selection") or {name: value for name, value in own["metrics"].items() if "/" not in name}


def _flat(scores: Mapping[str, Mapping[str, float]], mains: Mapping[str, tuple[str, float]]) -> dict[str, float]:
    """Return one task's scores as they are, several tasks' as `task/metric`, with the mean of their main ones.

    Args:
        scores: by task.
        mains: of each task the main metric, and its value of a perfect model.

    """
    if len(scores) == 1:
        return dict(next(iter(scores.values())))
    main = [scores[task][name] / perfect for task, (name, perfect) in mains.items()]
    flat = {f"{task}/{name}": value for task, own in scores.items() for name, value in own.items()}
    return {MEAN: sum(main) / len(main), **flat}


def evaluate(
    make_trainer: MakeTrainer,
    module: LightningModule,
    data: DataModule,
    folder: Path,
    recorders: Mapping[str, BatchMetric | None],
) -> dict[str, dict[str, float]]:
    """Return entries of `metrics.json`: `metrics` and, where rows are held out to choose on, `selection`.

    Metrics on the validation split (see `DataModule.report_split`) have their bare names, those on others are
    `<split>/<metric>`; predictions are written of them all, but not of the held-out rows.

    Args:
        make_trainer: builds a Trainer of a folder and callbacks.
        module: what is evaluated.
        data: its data module.
        folder: predictions are written into `predictions/` there, in the data set's own format.
        recorders: by task, what records the predictions.

    """
    reported: dict[str, float] = {}
    chosen: dict[str, float] | None = None
    for split in dict.fromkeys((data.selection_split, data.report_split, *data.other_splits)):
        report = split != data.selection_split or split == data.report_split
        folder_of_split = folder / "predictions" / ("" if split == data.report_split else split)
        trainer = make_trainer(folder, [WritePredictions(recorders, folder_of_split)] if report else [])
        # `val_dataloader` gives the selection split; the others have no hook of Lightning's.
        loader = {"datamodule": data} if split == data.selection_split else {"dataloaders": data.eval_loader(split)}
        found = trainer.validate(module, **loader, verbose=False)
        scores = {name.removeprefix("val/"): float(value) for name, value in (found[0] if found else {}).items()}
        if undefined := [name for name, value in scores.items() if not math.isfinite(value)]:
            log.warning("%s is undefined on the %s split, and null in metrics.json.", ", ".join(undefined), split)
        if report:
            prefix = "" if split == data.report_split else f"{split}/"
            reported |= {prefix + name: value for name, value in scores.items()}
        else:
            chosen = scores
    return {"metrics": reported} | ({"selection": chosen} if chosen is not None else {})
