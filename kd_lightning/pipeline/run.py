"""A whole run: its stages in order, each unless it is finished, then the report. Knows nothing of how it was typed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from kd_lightning.core.errors import ConfigError, DamagedError
from kd_lightning.core.files import read_json, remove_leftovers, write_json
from kd_lightning.core.locks import check_lockable
from kd_lightning.core.marked import read_marked, write_marked
from kd_lightning.core.version import VERSION
from kd_lightning.pipeline.check_plan import check_plan
from kd_lightning.pipeline.checks import check_settings
from kd_lightning.pipeline.environment import check_one_task
from kd_lightning.pipeline.fine_tune import SECONDS
from kd_lightning.pipeline.heartbeat import heartbeat, wait_for
from kd_lightning.pipeline.launch import check_ranks, inside_torchrun, outer_rank, start_stage
from kd_lightning.pipeline.ranks import LOCK
from kd_lightning.pipeline.report.curves import draw_curves
from kd_lightning.pipeline.report.summary import final_table
from kd_lightning.pipeline.settings import RunSettings
from kd_lightning.pipeline.stage import Stage, drop_damaged, read_result, stage_folder

log = logging.getLogger(__name__)

CONFIG = "config.yaml"


def run(settings: RunSettings, run_dir: Path) -> dict[str, Any]:
    """Carry out the stages of a run in a folder, without those that are finished there, and return `metrics.json`."""
    check_one_task()
    make_folder(run_dir)
    first = outer_rank() == 0
    with (
        only_one(run_dir) if first else nullcontext(),
        heartbeat(run_dir) if first and inside_torchrun() else nullcontext(),
    ):
        if inside_torchrun():
            check_ranks(settings)
        resumed = (run_dir / CONFIG).is_file()
        if first:
            remove_leftovers(run_dir, exclusive=True)  # the folder is locked
            save_config(settings.config, run_dir)
        wait_for(run_dir / CONFIG, run_dir)
        stages = stages_of(settings)
        with nullcontext() if resumed or not first else config_if_right(run_dir):
            check(stages, settings, run_dir, first)
        if resumed and first:
            log.info("%s", where_it_goes_on(stages, run_dir))
        for stage in stages:
            start_stage(stage, settings, run_dir)
        return report(settings.config, run_dir, stages)


def check(stages: Sequence[Stage], settings: RunSettings, run_dir: Path, first: bool) -> None:
    """Check settings and stages before any is started, as far as they are not finished.

    Args:
        stages: of the run, in order.
        settings: of the run.
        run_dir: its folder.
        first: whether this process is rank 0, which checks the stages.

    """
    for stage in stages if first else ():
        drop_damaged(stage_folder(run_dir, stage.name) / "result.json")
        stage.check_own(run_dir)
    if not all(stage.is_done(run_dir) for stage in stages):
        check_settings(settings)
    if first and not any(stage.is_done(run_dir) for stage in stages):
        check_plan(stages, settings)
    for stage in stages if first else ():
        if any(stage.name in later.inputs and not later.is_done(run_dir) for later in stages):
            stage.check_outputs(run_dir)


@contextmanager
def config_if_right(run_dir: Path) -> Iterator[None]:
    """Remove the configuration that was just saved where checks fail, so that what is corrected can be typed again."""
    try:
        yield
    except Exception:
        (run_dir / CONFIG).unlink(missing_ok=True)
        raise


def make_folder(run_dir: Path) -> None:
    """Make a run's folder.

    Raises:
        ConfigError: nothing can be written there.

    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"The folder {run_dir} cannot be made ({error.strerror}). Give another hydra.run.dir."
        ) from None


def where_it_goes_on(stages: Sequence[Stage], run_dir: Path) -> str:
    """Return the sentence that says which stages of a run are finished, and which one comes next."""
    finished = ", ".join(stage.name for stage in stages if stage.is_done(run_dir))
    left = next((stage.name for stage in stages if not stage.is_done(run_dir)), None)
    if left is None:
        return f"The run in {run_dir} is finished: there is nothing left to do."
    return f"The run in {run_dir} goes on with the stage '{left}'; finished: {finished or 'none'}."


@contextmanager
def only_one(run_dir: Path) -> Iterator[None]:
    """Keep a second process out of a run's folder; the system frees the lock of a process that is killed.

    Raises:
        ConfigError: a run is going on there.

    """
    lock, ranks = FileLock(run_dir / ".lock"), FileLock(run_dir / LOCK)
    try:
        check_lockable(run_dir / ".lock")
    except OSError as error:
        raise ConfigError(f"Cannot write into {run_dir} ({error.strerror}). Give another hydra.run.dir.") from None
    try:
        lock.acquire(timeout=0)
        with ranks.acquire(timeout=10):  # ranks of a launcher that was killed end within a second
            pass
    except Timeout:
        lock.release()
        raise ConfigError(f"Another process works in {run_dir}. Wait, or give another hydra.run.dir.") from None
    try:
        yield
    finally:
        lock.release()


def stages_of(settings: RunSettings) -> list[Stage]:
    """Return the stages of a run in the order of its plan, without those that are not enabled.

    Raises:
        ConfigError: an entry of the plan that is no stage, or reads a stage that comes after it.

    """
    planned: dict[str, Stage] = {}
    for name, node in settings.plan.items():
        if node is None:
            continue
        stage = instantiate(node, name=name)
        if not isinstance(stage, Stage):
            raise ConfigError(f"'plan.{name}' builds a {type(stage).__name__} and no kd_lightning.pipeline.Stage.")
        after = list(settings.plan)[list(settings.plan).index(name) :]
        later = next((other for other in stage.inputs if other in after), None)
        if later is not None:
            raise ConfigError(f"Stage '{name}' reads the result of '{later}', which must come before it in the plan.")
        if stage.enabled and (settings.has_teacher or not stage.needs_teacher):
            planned[name] = stage
    return list(planned.values())


def report(config: dict[str, Any], run_dir: Path, stages: Sequence[Stage]) -> dict[str, Any]:
    """Write `metrics.json` and the curves, and print the comparison."""
    results = {stage.name: read_result(run_dir, stage.name) or {} for stage in stages}
    seconds: dict[str, float] = {name: result.pop("seconds", 0.0) for name, result in results.items()}
    spent = stage_folder(run_dir, "teacher") / SECONDS  # of its training alone, which a later run finds done
    drop_damaged(spent)
    seconds["teacher"] = read_json(spent)["seconds"] if spent.is_file() else 0.0
    for result in results.values():
        result.pop("kd_version", None)
    scored = {name: result for name, result in results.items() if "metrics" in result}
    metrics = scored | {"seconds": seconds, "config": config}
    if outer_rank() == 0:
        write_json(run_dir / "metrics.json", metrics)
        chosen = any("selection" in result for result in scored.values())
        draw_curves(run_dir, run_dir / "curves.png", "selection" if chosen else "validation")
        console = Console()
        final_table(console, metrics)
        place = f"; the student is in {student}" if (student := run_dir / "student").is_dir() else ""
        console.print(f"Everything of this run is in {run_dir}{place}.", soft_wrap=True)
    return metrics


def save_config(config: dict[str, Any], run_dir: Path) -> None:
    """Save the resolved configuration, or check that it is the one the folder was made with.

    Raises:
        ConfigError: naming the first value that differs.

    """
    path = run_dir / CONFIG
    if not path.is_file():
        write_marked(path, OmegaConf.to_yaml(OmegaConf.create({"kd_version": VERSION, **config})))
        return
    saved, now = flatten(OmegaConf.to_container(saved_config(run_dir))), flatten(config)
    for key in sorted({*saved, *now} - {"resume", "kd_version"}):
        check_same(run_dir, key, saved.get(key), now.get(key))


def saved_config(run_dir: Path) -> DictConfig:
    """Return the configuration that a run's folder was made with.

    Raises:
        ConfigError: if the file was cut or changed.

    """
    try:
        return OmegaConf.create(read_marked(run_dir / CONFIG))  # type: ignore[return-value]
    except DamagedError as error:
        raise ConfigError(
            f"{error} A run is resumed as it was configured: start a new one, which finds its teachers and caches."
        ) from error


def check_same(run_dir: Path, key: str, saved: Any, now: Any) -> None:
    """Raise an error where a run would continue with another value than it was made with.

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
