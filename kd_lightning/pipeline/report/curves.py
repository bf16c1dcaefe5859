"""The picture of a run: losses and validation metrics over steps, read from the CSV files its loggers wrote."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from kd_lightning.core.files import write_figure
from kd_lightning.pipeline.report.pictures import (
    ALONE,
    LINES,
    STUDENT,
    TEACHER,
    legend,
    logarithmic,
    new_figure,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve: TypeAlias = tuple[list[int], list[float]]
"""Steps in rising order, and a value for each."""

STAGES = {"teacher": TEACHER, "alone": ALONE, "student": STUDENT}
"""The stages in the order they run, and their colours."""

MANY = 7
"""From this many terms on, those of one scheme are drawn as one line, their sum."""

_TERM = re.compile(r"train/(\w+/)?weighted/(\w+)")
"""What a term's weighted loss is logged as: with the task's name where there are several."""


def read_curves(stage_dir: Path) -> dict[str, Curve]:
    """Read what a stage logged: `{"train/loss": (steps, values), …}`.

    Args:
        stage_dir: holds `csv/version_0/metrics.csv`; with Lightning's own logger one version for each time the stage
            was started. A resumed stage then repeats some steps, and the later version is believed.

    """
    points: dict[str, dict[int, float]] = {}
    for file in sorted(stage_dir.glob("csv/version_*/metrics.csv"), key=_version):
        with file.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                _add(points, row)
    return {name: (sorted(values), [values[step] for step in sorted(values)]) for name, values in points.items()}


def _version(file: Path) -> tuple[int, str]:
    number = re.search(r"\d+$", file.parent.name)
    return (int(number.group()) if number else -1, file.parent.name)


def _add(points: dict[str, dict[int, float]], row: Mapping[str | None, str | list[str] | None]) -> None:
    """Add one line's values at its step; the last line of a killed run may be cut short and then adds nothing."""
    step = _number(row.get("step"))
    if step is None:
        return
    for name, text in row.items():
        value = _number(text)
        if isinstance(name, str) and name not in ("step", "epoch") and value is not None:
            points.setdefault(name, {})[int(step)] = value


def _number(text: object) -> float | None:
    try:
        return float(text) if isinstance(text, str) else None
    except ValueError:
        return None


def draw_curves(run_dir: Path, out: Path, split: str = "validation") -> None:
    """Draw a run's curves into a PNG file: one panel of losses per stage, one panel per metric.

    Args:
        run_dir: holds `stages/<stage>`; stages without curves are left out.
        out: the picture, replaced as a whole.
        split: what checkpoints were chosen on, for the titles of the metrics.

    """
    stages = {name: curves for name in _stage_names(run_dir) if (curves := read_curves(run_dir / "stages" / name))}
    losses = [name for name, curves in stages.items() if any(key.startswith("train/") for key in curves)]
    metrics = list(dict.fromkeys(key for curves in stages.values() for key in curves if key.startswith("val/")))
    panels = max(len(losses) + len(metrics), 1)
    columns = panels if panels < 4 else math.ceil(panels / 2)
    figure = new_figure(5.2 * columns, 3.9 * math.ceil(panels / columns))
    axes = iter([figure.add_subplot(math.ceil(panels / columns), columns, i + 1) for i in range(panels)])
    for name in losses:
        _draw_losses(next(axes), name, stages[name])
    for metric in metrics:
        _draw_metric(next(axes), f"{split} {metric.removeprefix('val/')}", metric, stages)
    if not losses and not metrics:
        next(axes).set_title("nothing was logged")
    write_figure(out, figure)


def _stage_names(run_dir: Path) -> list[str]:
    found = sorted(folder.name for folder in run_dir.glob("stages/*") if folder.is_dir())
    return [name for name in STAGES if name in found] + [name for name in found if name not in STAGES]


def _draw_losses(axes: Axes, stage: str, curves: Mapping[str, Curve]) -> None:
    """Draw what was minimised: the total, and each term as it counts in it."""
    terms = {"".join(m.groups("")): c for key, c in curves.items() if (m := _TERM.fullmatch(key))}
    terms = _summed(terms) if len(terms) >= MANY else terms
    for i, (name, curve) in enumerate(terms.items() if len(terms) > 1 else ()):
        _draw(axes, curve, name, LINES[i % len(LINES)], style="-" if i < len(LINES) else "--")
    if "train/loss" in curves:
        _draw(axes, curves["train/loss"], "total", "black", width=2.0)
    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.get_lines()] or [np.empty(0)])
    drawn = drawn[np.isfinite(drawn)]
    if drawn.size and drawn.min() > 0:
        logarithmic(axes)
    axes.set(title=f"{stage}: training loss, weighted", xlabel="step")
    _finish(axes)


def _summed(terms: Mapping[str, Curve]) -> dict[str, Curve]:
    """Add up the terms that one scheme made: `hidden_mse_0`, `hidden_mse_1`, … become `hidden_mse (2 terms)`."""
    groups: dict[str, list[Curve]] = {}
    for name, curve in terms.items():
        groups.setdefault(re.sub(r"_\d+$", "", name), []).append(curve)
    return {(f"{n} ({len(c)} terms)" if len(c) > 1 else n): _sum(c) for n, c in groups.items()}


def _sum(curves: Iterable[Curve]) -> Curve:
    totals: dict[int, float] = {}
    for steps, values in curves:
        for step, value in zip(steps, values, strict=True):
            totals[step] = totals.get(step, 0.0) + value
    return list(totals), list(totals.values())


def _draw_metric(axes: Axes, title: str, metric: str, stages: Mapping[str, Mapping[str, Curve]]) -> None:
    """Draw one metric of every stage that has it."""
    for i, (stage, curves) in enumerate(stages.items()):
        if metric in curves:
            steps, values = curves[metric]
            color = STAGES.get(stage, LINES[(i + 1) % len(LINES)])
            axes.plot(steps, values, marker="o", markersize=4, color=color, label=stage)
    axes.set(title=title, xlabel="step")
    _finish(axes)


def _draw(axes: Axes, curve: Curve, label: str, color: str, width: float = 1.4, style: str = "-") -> None:
    """Draw a curve; a long one as its running median over a pale trace of the raw values."""
    steps, values = curve
    if len(values) > 80:
        axes.plot(steps, values, color=color, alpha=0.15, linewidth=0.8)
        values = _running_median(values, len(values) // 40)
    axes.plot(steps, values, style, color=color, linewidth=width, label=label, marker="o" if len(steps) == 1 else None)


def _running_median(values: list[float], reach: int) -> list[float]:
    windows = (sorted(values[max(i - reach, 0) : i + reach + 1]) for i in range(len(values)))
    return [window[len(window) // 2] for window in windows]


def _finish(axes: Axes) -> None:
    tidy(axes)
    axes.set_xlim(left=0)
    legend(axes)
