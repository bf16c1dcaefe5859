"""The picture of a sweep: the metric against what varied, with the teacher as the line to reach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from kd_lightning.cli.sweep_jobs import Job, best, compared, shared_metric, short_names, varying
from kd_lightning.core.files import write_figure
from kd_lightning.pipeline.report.pictures import ALONE, FAILED, LINES, STUDENT, TEACHER, legend, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_sweep(jobs: Sequence[Job], out: Path) -> None:
    """Draw a sweep into a PNG file.

    One or two overrides that vary, one of them a number: the metric against that number, one line per value of the
    other. Anything else: one row per job, the best on top. Points are what is reported; the best is that on held-out
    rows, where the jobs have some (see `compared`). Repetitions over `seed` are points around a line of their
    means. Jobs without a result are crosses on the lower edge, or rows that say so.

    Args:
        jobs: all jobs of the sweep.
        out: the picture, replaced as a whole.

    """
    keys = varying(jobs)
    axes_keys = [key for key in keys if key != "seed"] or keys
    along = _numeric_key(jobs, axes_keys)
    drawable = along is not None and len(axes_keys) <= 2 and shared_metric(jobs) is not None
    if along is not None and drawable:
        figure = _lines(jobs, along, next((key for key in axes_keys if key != along), None))
    else:
        figure = _ranking(jobs, keys)
    write_figure(out, figure)


def _number(text: str | None) -> float:
    try:
        return float(text) if text is not None else math.nan
    except ValueError:
        return math.nan


def _numeric_key(jobs: Sequence[Job], keys: Sequence[str]) -> str | None:
    """Return the override with the most different values among those that are finite numbers in every job."""
    numeric = [key for key in keys if all(math.isfinite(_number(job.overrides.get(key))) for job in jobs)]
    return max(numeric, key=lambda key: len({job.overrides[key] for job in jobs}), default=None)


def _lines(jobs: Sequence[Job], along: str, other: str | None) -> Figure:
    figure = new_figure(7.0, 4.6)
    axes = figure.add_subplot()
    values = list(dict.fromkeys(job.overrides.get(other, "") if other else "student" for job in jobs))
    for i, value in enumerate(values):
        chosen = [job for job in jobs if other is None or job.overrides.get(other, "") == value]
        _line(axes, chosen, along, value or "default", LINES[i % len(LINES)], i)
    _level(axes, jobs, "teacher", TEACHER, "--")
    _level(axes, jobs, "alone", ALONE, ":")
    _ticks(axes, sorted({_number(job.overrides[along]) for job in jobs}))
    _note_best(axes, jobs, along)
    _note_lost(axes, jobs, len(values))
    metric = shared_metric(jobs)
    axes.set(xlabel=along, ylabel=metric.name if metric else "")
    tidy(axes)
    legend(axes, other)
    return figure


def _line(axes: Axes, jobs: Sequence[Job], along: str, label: str, color: str, order: int) -> None:
    """Draw the mean over repetitions as a line, every run as a point, and what failed as a gap and a cross below."""
    runs: dict[float, list[float]] = {}
    for job in jobs:
        runs.setdefault(_number(job.overrides[along]), []).extend(_scores([job], "student"))
    at = sorted(runs)
    axes.plot(at, [fmean(runs[x]) if runs[x] else math.nan for x in at], "-o", color=color, label=label, markersize=6)
    if any(len(scores) > 1 for scores in runs.values()):
        axes.scatter(*_columns([(x, score) for x in at for score in runs[x]]), color=color, alpha=0.4, s=14)
    lost = [_number(job.overrides[along]) for job in jobs if job.status != "ok"]
    if lost:
        edge, heights = axes.get_xaxis_transform(), [0.03 + 0.05 * order] * len(lost)
        axes.scatter(lost, heights, transform=edge, color=color, marker="x", s=45, linewidths=2, clip_on=False)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _scores(jobs: Sequence[Job], role: str) -> list[float]:
    return [score for job in jobs if (score := job.score(role)) is not None]


def _level(axes: Axes, jobs: Sequence[Job], role: str, color: str, style: str) -> None:
    """Draw the mean of a model that is the same, or nearly, in all jobs as a horizontal line."""
    if scores := _scores(jobs, role):
        mean = fmean(scores)
        axes.axhline(mean, color=color, linestyle=style, linewidth=1.5, label=f"{_of(role)}, {mean:.4f}", zorder=1)


def _note_best(axes: Axes, jobs: Sequence[Job], along: str) -> None:
    winner = best(jobs)
    score = winner.score() if winner is not None else None
    if winner is not None and score is not None:
        at = (_number(winner.overrides[along]), score)
        axes.annotate(f"{score:.4f}", at, (0, 8), textcoords="offset points", fontsize=8, ha="center")


def _note_lost(axes: Axes, jobs: Sequence[Job], lines: int) -> None:
    """Make room for the crosses below all lines, and say what they are."""
    if any(job.status != "ok" for job in jobs):
        low, high = axes.get_ylim()
        axes.set_ylim(low - (high - low) * (0.06 + 0.05 * lines), high)
        axes.plot([], [], "x", color=FAILED, markersize=6, markeredgewidth=2, label="failed, in its line's colour")


def _of(role: str) -> str:
    return "student alone" if role == "alone" else role


def _ticks(axes: Axes, values: Sequence[float]) -> None:
    """Put a tick at every value that was tried; numbers that grow by factors are spaced by factors."""
    if values[0] > 0 and len(values) > 2 and values[-1] / values[0] >= 4:
        axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()


def _ranking(jobs: Sequence[Job], keys: Sequence[str]) -> Figure:
    """Draw one row per job, best on top, failed ones at the bottom; points, so that the axis need not start at zero."""
    metric, winner = shared_metric(jobs), best(jobs)
    up = -1.0 if metric is not None and metric.mode == "min" else 1.0
    scores = compared(jobs)
    order = sorted(jobs, key=lambda job: _rank(scores.get(job.name), up))
    figure = new_figure(7.4, 1.4 + 0.32 * len(order))
    axes = figure.add_subplot()
    for role, color, marker in (("teacher", TEACHER, "|"), ("alone", ALONE, "D"), ("student", STUDENT, "o")):
        points = [(score, row) for row, job in enumerate(order) if (score := job.score(role)) is not None]
        if points:
            axes.scatter(*_columns(points), color=color, marker=marker, label=_of(role), s=45, zorder=3)
    for row, job in enumerate(order):
        _row_note(axes, row, job, job is winner)
    axes.set_yticks(range(len(order)), [_label(job, keys) for job in order])
    axes.set(xlabel=metric.name if metric else "main metric", ylim=(-0.7, len(order) - 0.3))
    tidy(axes)
    axes.margins(x=0.08)
    if not axes.collections:
        axes.set_xticks([])
    else:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8, frameon=False)
    return figure


def _rank(score: float | None, up: float) -> tuple[bool, float]:
    return score is not None, up * score if score is not None else 0.0


def _row_note(axes: Axes, row: int, job: Job, winner: bool) -> None:
    """Say how a job ended where there is no point, and mark the best."""
    score = job.score()
    if score is None:
        text = f"{job.status}: {job.error}" if job.error else job.status
        where = axes.get_yaxis_transform()
        axes.text(0.02, row, _short(text, 70), transform=where, color=FAILED, fontsize=8, va="center")
    elif winner:
        axes.annotate("best", (score, row), (7, 0), textcoords="offset points", color=STUDENT, fontsize=8, va="center")


def _label(job: Job, keys: Sequence[str]) -> str:
    told = ", ".join(f"{name}={job.overrides[key]}" for key, name in short_names(keys).items() if key in job.overrides)
    return _short(told or f"job {job.name}", 48)


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
