"""The stage that measures a student with early exits: its score, depth and latency at several speeds."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import seed_everything
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor

from kd_lightning.core.errors import ConfigError
from kd_lightning.core.files import write_figure, write_text
from kd_lightning.core.types import Batch
from kd_lightning.metrics import Scores
from kd_lightning.models.inspection.exit_curve import SPEEDS, ExitPoint, check_has_exits, exit_curve
from kd_lightning.models.load import load
from kd_lightning.pipeline.build import load_setups
from kd_lightning.pipeline.places import STUDENT, TEACHER, models_of, read_teachers, teachers_file
from kd_lightning.pipeline.report import pictures
from kd_lightning.pipeline.settings import RunSettings
from kd_lightning.pipeline.setup import TaskSetup
from kd_lightning.pipeline.stage import Made, Stage, stage_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CSV, PNG = "exit_curve.csv", "exit_curve.png"


class ExitCurve(Stage):
    """Evaluates a stage's student with early exits at several speeds, on the validation split.

    Writes `exit_curve.csv` and `exit_curve.png` into its folder: the task's main metric, the mean number of layers that
    a row runs, and measured milliseconds per row, one by one and in batches of 32. Speed 0 is the whole model.

    Args:
        name: of its folder.
        enabled: whether this run has it.
        student: the stage whose student is measured.
        speeds: in [0, 1].
        timed_rows: on how many rows latencies are measured; 0: none.

    Raises:
        ConfigError: for speeds, or a number of rows, that cannot be.

    """

    one_process = True

    def __init__(
        self,
        name: str,
        enabled: bool = True,
        student: str = STUDENT,
        speeds: Sequence[float] = SPEEDS,
        timed_rows: int = 64,
    ) -> None:
        super().__init__(name, enabled)
        if not speeds or not all(isinstance(speed, int | float) and 0 <= speed <= 1 for speed in speeds):
            raise ConfigError(f"'plan.{name}.speeds' are numbers in [0, 1], and cannot be {speeds!r}.")
        if not isinstance(timed_rows, int) or timed_rows < 0:
            raise ConfigError(
                f"'plan.{name}.timed_rows' is a number of rows, or 0 for none, and cannot be {timed_rows!r}."
            )
        self.student, self.speeds, self.timed_rows = student, list(speeds), timed_rows
        self.inputs = (student, TEACHER)

    def run(self, settings: RunSettings, run_dir: Path) -> dict[str, Any]:
        """Measure, write table and picture, and return the points."""
        seed_everything(settings.seed, verbose=False)
        (setup,) = load_setups(settings, read_teachers(teachers_file(run_dir), settings), labels_only=True).values()
        student = load(next(iter(models_of(self.student, settings, run_dir)[""].values())))
        check_has_exits(student)
        setup.data.setup("validate")
        batches = _limited(
            setup.data.eval_loader(setup.data.report_split), settings.fitting.trainer.get("limit_val_batches")
        )
        points = exit_curve(student, batches, self.speeds, _MainMetric(setup), self.timed_rows)
        folder, metric = stage_folder(run_dir, self.name), setup.task.metric
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / CSV, _table(points, metric))
        write_figure(folder / PNG, _picture(points, metric))
        return {"metric": metric, "points": [asdict(point) for point in points]}

    @property
    def refers(self) -> bool:
        """It measures another stage's student."""
        return True

    def check(self, settings: RunSettings, made: Mapping[str, Made]) -> Made:
        """Check what it is going to measure.

        Raises:
            ConfigError: for several tasks, or a student without exits.

        """
        if len(settings.tasks) > 1:
            raise ConfigError("Exits are measured on one task, and this run has several: leave the stage out.")
        for models, _ in made.get(self.student, {}).values():
            check_has_exits(next(iter(models.values())))
        return {}


def _limited(loader: Any, limit: int | float | None) -> Iterator[Batch]:
    """Yield a loader's batches, as many as the trainer's `limit_val_batches` lets validation have."""
    combined = CombinedLoader(loader, "sequential")
    iter(combined)  # only then it has a length
    count = None if limit is None else limit if isinstance(limit, int) else int(limit * len(combined))
    return islice((batch for batch, _, _ in combined), count)


class _MainMetric:
    """Scores all rows' logits by the main metric of a task."""

    def __init__(self, setup: TaskSetup) -> None:
        self.name, self.metrics = setup.task.metric, Scores(setup.task.metrics_for(setup.data))

    def __call__(self, logits: Tensor, labels: Tensor) -> float:
        self.metrics.update({"logits": logits}, {"labels": labels})
        value = float(self.metrics.compute()[self.name])
        self.metrics.reset()
        return value


def _table(points: Sequence[ExitPoint], metric: str) -> str:
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    sizes = list(points[0].latency_ms)
    writer.writerow(["speed", metric, "depth", *(f"ms_per_row_batch_{size}" for size in sizes)])
    for point in points:
        latency = (f"{point.latency_ms[size]:.3f}" for size in sizes)
        writer.writerow([f"{point.speed:g}", f"{point.score:.6g}", f"{point.depth:.4f}", *latency])
    return lines.getvalue()


def _picture(points: Sequence[ExitPoint], metric: str) -> Figure:
    """Draw the score against the mean depth, with the speed at each point that differs from the one before."""
    figure = pictures.new_figure(6, 4)
    axes: Any = figure.add_subplot()
    axes.plot([p.depth for p in points], [p.score for p in points], marker="o", color=pictures.STUDENT)
    before = math.inf
    for point in points:
        if abs(point.depth - before) > 0.05:
            at = (point.depth, point.score)
            axes.annotate(f"{point.speed:g}", at, textcoords="offset points", xytext=(4, 5), fontsize=8)
            before = point.depth
    axes.set_xlabel("layers that a row runs, on average")
    axes.set_ylabel(metric)
    axes.set_title("Leaving early, at each speed", fontsize=10, loc="left")
    pictures.tidy(axes)
    return figure
