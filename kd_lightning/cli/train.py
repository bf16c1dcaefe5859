"""`kd-train`, `python train.py`: from what was typed to a run, and from any error of the user's to one sentence."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import traceback
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from kd_lightning.cli.configs import CONFIGS, for_jobs_only, known_keys, register
from kd_lightning.cli.experiments import typed_folder
from kd_lightning.cli.messages import one_sentence
from kd_lightning.cli.resume import CONFIG, as_value, program, resumed_folder
from kd_lightning.cli.terminal import quiet
from kd_lightning.core.errors import ConfigError, Stopped
from kd_lightning.core.files import write_text
from kd_lightning.core.marked import write_marked

log = logging.getLogger(__name__)


def main() -> None:
    """Run the command; exits with 1 after any error, or after a sweep with a failed job."""
    sys.path.insert(0, os.getcwd())  # a user's own classes, which an installed command would not find
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors reach this function, which prints one sentence
    register(typed_folder(sys.argv[1:]))
    try:
        sys.argv[1:] = _arguments(sys.argv[1:])
        _task()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        sentence = one_sentence(error, known_keys) or _about_folder(error)
        if sentence is None:
            raise
        sys.exit(f"error: {sentence}")
    from kd_lightning.cli.sweep_report import last_failures

    if last_failures():
        sys.exit(1)


def _about_folder(error: BaseException | None) -> str | None:
    """Return what is wrong with a run's folder; None for what a job has raised, for Hydra writes nowhere else."""
    if error is not None and any(frame.f_code is _job.__code__ for frame, _ in traceback.walk_tb(error.__traceback__)):
        return None
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    if error is None or error.filename is None:
        return None
    key = "hydra.sweep.dir" if {"-m", "--multirun"} & set(sys.argv) else "hydra.run.dir"
    return f"Cannot write {error.filename} ({error.strerror}). Give another {key}."


def _arguments(typed: list[str]) -> list[str]:
    """Send a resumed run to its own folder, before a new one is made; let a sweep have keys that only its jobs have.

    Raises:
        ConfigError: if there is no run to resume, or several are asked for.

    """
    swept = bool({"-m", "--multirun"} & set(typed))
    empty = next((key for key in ("hydra.run.dir", "hydra.sweep.dir") if f"{key}=" in typed), None)
    if empty is not None:
        raise ConfigError(f"'{empty}' has no value: type {empty}=DIR.")
    folder = resumed_folder(typed)
    if folder is None:
        return for_jobs_only(typed, known_keys) if swept else typed
    if swept:
        raise ConfigError("resume continues one run; leave -m away, or start the sweep again: it reuses its teachers.")
    others = [text for text in typed if not text.startswith("resume=")]
    place = as_value(folder)
    return [*others, f"resume={place}", f"hydra.run.dir={place}", "hydra.output_subdir=null"]


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def _task(cfg: DictConfig) -> float | None:
    """Carry out one job; in a sweep its error is kept in its folder, so that the others go on."""
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().mode == RunMode.RUN:
        return _single(cfg, run_dir)
    if (overrides := run_dir / ".hydra" / "overrides.yaml").is_file():  # Hydra does not see to it that it stays whole
        write_marked(overrides, overrides.read_text(encoding="utf-8"))
    worst = float("-inf" if cfg.task.mode == "max" else "inf")  # a search goes on, and looks elsewhere
    try:
        score = _job(cfg, run_dir)
    except Exception as error:
        sentence = one_sentence(error, known_keys)
        write_text(run_dir / "error.txt", sentence or traceback.format_exc())
        log.error("Job %s failed: %s", run_dir.name, sentence or repr(error))
        return worst
    return worst if score is None else score  # an undefined metric


def _single(cfg: DictConfig, run_dir: Path) -> float | None:
    try:
        return _job(cfg, run_dir)
    except Exception as error:
        sentence = one_sentence(error, known_keys)
        if sentence is None:
            raise
        sys.exit(f"error: {sentence}")


def _job(cfg: DictConfig, run_dir: Path) -> float | None:
    """Check the configuration as a whole, run it, and return the main metric: on held-out rows where there are some."""
    from kd_lightning.cli.settle import settings_of, settle
    from kd_lightning.pipeline.report.results import Metric, metric_of, selection_of
    from kd_lightning.pipeline.run import run
    from kd_lightning.pipeline.signals import raised

    quiet()
    settings = settings_of(_saved(cfg, run_dir) if cfg.resume is not None else settle(cfg))
    try:
        with raised():
            metrics = run(settings, run_dir)
    except Stopped as stopped:
        _print_how_to_go_on(stopped, run_dir)
        raise
    metric = Metric(settings.metric)
    found = [read(metrics, "student", metric) for read in (selection_of, metric_of)]
    return next((value for value in found if value is not None), None)


def _print_how_to_go_on(stopped: Stopped, run_dir: Path) -> None:
    """Print what was saved of a run that a signal has stopped, and the command that resumes it."""
    what = f"saved at {stopped.saved}" if stopped.saved else "nothing new to save"
    told = f"{what}. To go on: {shlex.join([*program(), f'resume={run_dir}'])}"
    if not (run_dir / CONFIG).is_file():
        told = f"before anything was saved. To start again: {shlex.join([*program(), *sys.argv[1:]])}"
    print(f"Stopped by {stopped.name}, {told}", file=sys.stderr)  # noqa: T201


def _saved(cfg: DictConfig, run_dir: Path) -> DictConfig:
    """Return a resumed run's own configuration; values typed beside `resume` must be those it was made with.

    Where a group was chosen again, the whole configuration counts, and is compared before the first stage.
    """
    from kd_lightning.cli.settle import settle
    from kd_lightning.pipeline.run import check_same, saved_config

    typed = [text.lstrip("+~").partition("=")[0].partition("@")[0] for text in HydraConfig.get().overrides.task]
    if any((CONFIGS / key).is_dir() for key in typed):
        return settle(cfg)
    saved, now = saved_config(run_dir), settle(cfg)
    for key in typed:
        if key != "resume":
            check_same(run_dir, key, OmegaConf.select(saved, key), OmegaConf.select(now, key))
    return saved
