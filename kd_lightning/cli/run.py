"""A whole run: teacher, student alone if wanted, distilled student, report. Knows nothing of how it was typed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from kd_lightning.cli.build import plain, teacher_data
from kd_lightning.cli.caching import check_cache, forget_lost_caches
from kd_lightning.cli.launch import by_itself, check_ranks, inside_torchrun, outer_rank, start_stage, wait_for
from kd_lightning.cli.lessons import FOLDERS
from kd_lightning.cli.reports.curves import draw_curves
from kd_lightning.cli.reports.summary import final_table
from kd_lightning.cli.stages import Stage, result_of, stage_folder
from kd_lightning.cli.tasks import task_configs
from kd_lightning.cli.teacher import has_teacher, prepare_teachers
from kd_lightning.cli.unlabelled import check_unlabelled
from kd_lightning.core.errors import ConfigError
from kd_lightning.core.files import write_json, write_text


def run(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    """Carry out a configuration in a folder, skipping what is finished there, and return its `metrics.json`."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with only_one(run_dir) if outer_rank() == 0 else nullcontext():
        return _run(cfg, run_dir)


@contextmanager
def only_one(run_dir: Path) -> Iterator[None]:
    """Keep a second process out of a run's folder; the system frees the lock of a process that is killed.

    Raises:
        ConfigError: if a run is going on there.

    """
    lock = FileLock(run_dir / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"Another process works in {run_dir}. Wait, or give another hydra.run.dir.") from None
    try:
        yield
    finally:
        lock.release()


def _run(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    if inside_torchrun():
        check_ranks(cfg)
    if outer_rank() == 0:
        save_config(cfg, run_dir)
        if not (run_dir / FOLDERS).is_file():
            if inside_torchrun():
                by_itself(run_dir, "find_teacher")
            else:
                find_teacher(cfg, run_dir)
    wait_for(run_dir / FOLDERS)
    stages = stages_of(cfg)
    if cfg.cache and outer_rank() == 0 and result_of(run_dir, "student") is None:
        forget_lost_caches(stage_folder(run_dir, "cache") / "result.json")
    for stage in stages:
        start_stage(cfg, run_dir, stage)
    return report(cfg, run_dir, stages)


def stages_of(cfg: DictConfig) -> list[Stage]:
    """Return the stages of a run: a student that learns from labels alone has no teacher to be compared with."""
    if not all(has_teacher(own) for own in task_configs(cfg).values()):
        return ["student"]
    before: list[Stage] = ["teacher", "cache"] if cfg.cache else ["teacher"]
    return [*before, "alone", "student"] if cfg.baseline else [*before, "student"]


def find_teacher(cfg: DictConfig, run_dir: Path) -> None:
    """Prepare every task's teachers and note where they are, and what they cost."""
    tasks = task_configs(cfg)
    for own in tasks.values():
        check_cache(own)
        check_unlabelled(own)
    for own in tasks.values() if len(tasks) > 1 else ():
        if own.teacher.path is None and has_teacher(own):
            teacher_data(own).setup("fit")  # what is wrong with a later task's data is known before anything is trained
    found = {task: prepare_teachers(own) for task, own in tasks.items()}
    seconds = sum(spent for _, spent in found.values())
    folders = {task: {name: str(path.resolve()) for name, path in own.items()} for task, (own, _) in found.items()}
    write_json(run_dir / "stages" / "teacher" / "seconds.json", round(seconds, 2))
    write_json(run_dir / FOLDERS, folders)


def report(cfg: DictConfig, run_dir: Path, stages: list[Stage]) -> dict[str, Any]:
    """Write `metrics.json` and the curves, and print the comparison."""
    results: dict[str, Any] = {stage: result_of(run_dir, stage) or {} for stage in stages}
    seconds: dict[str, float] = {stage: result.pop("seconds", 0.0) for stage, result in results.items()}
    seconds["teacher"] = json.loads((run_dir / "stages" / "teacher" / "seconds.json").read_text())
    results.pop("cache", None)  # costs seconds, and has no score
    metrics = results | {"seconds": seconds, "config": plain(cfg)}
    if outer_rank() == 0:
        write_json(run_dir / "metrics.json", metrics)
        draw_curves(run_dir, run_dir / "curves.png")
        console = Console()
        final_table(console, metrics)
        console.print(
            f"Everything of this run is in {run_dir}; the student is in {run_dir / 'student'}.", soft_wrap=True
        )
    return metrics


def save_config(cfg: DictConfig, run_dir: Path) -> None:
    """Save the resolved configuration, or check that it is the one the folder was made with.

    Raises:
        ConfigError: naming the first value that differs.

    """
    path = run_dir / "config.yaml"
    if not path.is_file():
        write_text(path, OmegaConf.to_yaml(OmegaConf.create(plain(cfg))))
        return
    saved, now = flatten(plain(OmegaConf.load(path))), flatten(plain(cfg))
    for key in sorted({*saved, *now} - {"resume"}):
        check_same(run_dir, key, saved.get(key), now.get(key))


def check_same(run_dir: Path, key: str, saved: Any, now: Any) -> None:
    """Refuse to continue a run with another value than it was made with.

    Raises:
        ConfigError: with both values.

    """
    if saved != now:
        raise ConfigError(
            f"{run_dir} was made with {key}={saved}, not {now}. "
            "A run is resumed as it was configured: type resume=DIR alone, or start a new run."
        )


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted key.

    Example:
        >>> flatten({"a": {"b": 1}, "c": [2]})
        {'a.b': 1, 'c.0': 2}

    """
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None or not value:
        return {prefix.rstrip("."): value}
    return {k: v for key, inner in items for k, v in flatten(inner, f"{prefix}{key}.").items()}
