"""Reading a sweep's folder: one `Job` per job, whatever became of it."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from kd_lightning.core.errors import DamagedError
from kd_lightning.core.marked import read_marked
from kd_lightning.pipeline.report.results import Metric, main_metric, metric_of, selection_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Args:
        name: its folder below the sweep's, Hydra's job number.
        overrides: what was typed for it, key → value as text.
        metrics: the object of `metrics.json`; empty where the job did not finish.
        error: the first line of what went wrong; empty where nothing did.

    """

    name: str
    overrides: Mapping[str, str]
    metrics: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def status(self) -> Literal["ok", "failed", "missing"]:
        """Whether it finished; `missing` is a job that left neither a result nor an error, such as a killed one."""
        return "failed" if self.error else "ok" if self.metrics else "missing"

    @cached_property
    def metric(self) -> Metric | None:
        """The metric that counts for this job."""
        return main_metric(self.metrics)

    def score(self, role: str = "student") -> float | None:
        """Return the main metric of the teacher, the student alone or the student."""
        return metric_of(self.metrics, role, self.metric)

    @property
    def selection(self) -> float | None:
        """The student's main metric on the training rows that are held out to choose on; None where none are."""
        return selection_of(self.metrics, "student", self.metric)

    @property
    def seconds(self) -> float | None:
        """Wall time of all its stages."""
        stages = self.metrics.get("seconds") or {}
        return sum(stages.values()) if stages else None


def read_jobs(sweep_dir: Path) -> list[Job]:
    """Return every job below a sweep's folder, in the order of their numbers."""
    folders = sorted(_job_folders(sweep_dir), key=lambda folder: _natural(str(folder.relative_to(sweep_dir))))
    return [_read(folder, str(folder.relative_to(sweep_dir))) for folder in folders]


def _job_folders(root: Path) -> Iterator[Path]:
    for folder in (path for path in root.iterdir() if path.is_dir()) if root.is_dir() else ():
        if any((folder / name).exists() for name in (".hydra", "metrics.json", "error.txt")):
            yield folder
        else:
            yield from _job_folders(folder)


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that puts 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _read(folder: Path, name: str) -> Job:
    overrides = _overrides(folder / ".hydra" / "overrides.yaml")
    metrics, error = folder / "metrics.json", folder / "error.txt"
    if error.is_file() and not (metrics.is_file() and metrics.stat().st_mtime > error.stat().st_mtime):
        return Job(name, overrides, error=_first_line(error.read_text(encoding="utf-8", errors="replace")))
    if not metrics.is_file():
        return Job(name, overrides)
    try:
        return Job(name, overrides, metrics=dict(json.loads(metrics.read_text(encoding="utf-8"))))
    except (ValueError, TypeError) as broken:
        return Job(name, overrides, error=f"metrics.json cannot be read: {broken}")


def _first_line(text: str) -> str:
    """Return the line that says most: the first, or of a traceback the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it failed without a word"]
    return lines[-1] if lines[0].startswith("Traceback") else lines[0]


def _overrides(file: Path) -> dict[str, str]:
    """Return what was typed for a job; nothing where the file was cut, as of a job that was killed before it began."""
    try:
        typed = OmegaConf.to_container(OmegaConf.create(read_marked(file))) if file.is_file() else []
    except DamagedError as error:
        log.warning("%s What was typed for this job is left out.", error)
        typed = []
    pairs = (str(entry).partition("=") for entry in typed) if isinstance(typed, list) else ()
    return {key.lstrip("+"): value.strip("'\"") for key, _, value in pairs}


def varying(jobs: Sequence[Job]) -> list[str]:
    """Return the overrides that tell the jobs apart, in the order they were typed."""
    keys = dict.fromkeys(key for job in jobs for key in job.overrides)
    return [key for key in keys if len({job.overrides.get(key) for job in jobs}) > 1]


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return each override's last part, or all of it where two would look the same.

    Example:
        >>> short_names(["optimizer.lr", "student.depth", "teacher.depth"])
        {'optimizer.lr': 'lr', 'student.depth': 'student.depth', 'teacher.depth': 'teacher.depth'}

    """
    times = Counter(key.rpartition(".")[-1] for key in keys)
    return {key: key.rpartition(".")[-1] if times[key.rpartition(".")[-1]] == 1 else key for key in keys}


def shared_metric(jobs: Sequence[Job]) -> Metric | None:
    """Return the main metric if all finished jobs have the same one: only then can they be compared."""
    metrics = {job.metric for job in jobs if job.status == "ok"}
    return next(iter(metrics)) if len(metrics) == 1 else None


def compared(jobs: Sequence[Job]) -> dict[str, float]:
    """Return by job what its student is chosen by: the main metric on held-out rows where all jobs have some."""
    done = [job for job in jobs if job.score() is not None]
    held_out = all(job.selection is not None for job in done)
    found = {job.name: job.selection if held_out else job.score() for job in done}
    return {name: score for name, score in found.items() if score is not None}


def best(jobs: Sequence[Job]) -> Job | None:
    """Return the job whose student is best, see `compared`; None where nothing can be compared."""
    metric, scores, winner = shared_metric(jobs), compared(jobs), None
    for job in jobs if metric is not None else ():
        score, top = scores.get(job.name), scores[winner.name] if winner is not None else None
        if metric is not None and score is not None and score == score and (top is None or metric.better(score, top)):
            winner = job
    return winner
