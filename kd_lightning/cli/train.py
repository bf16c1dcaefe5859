"""`kd-train`, `python train.py`: from what was typed to a run, and from any mistake to one sentence."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict

from kd_lightning.cli import experiments, schema
from kd_lightning.cli.configs import CONFIGS, known_keys
from kd_lightning.cli.messages import one_sentence
from kd_lightning.cli.precision import fast_precision
from kd_lightning.cli.quiet import quiet
from kd_lightning.cli.sweeping import for_jobs_only
from kd_lightning.cli.targets import check_root_keys, check_targets
from kd_lightning.cli.tasks import settle_tasks
from kd_lightning.core.errors import ConfigError, hint
from kd_lightning.core.files import write_text

log = logging.getLogger(__name__)


def main() -> None:
    """Run the command; exits with 1 after any error, or after a sweep with a failed job."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, and leave as one sentence
    schema.register()
    experiments.register(CONFIGS, experiments.typed_folder(sys.argv[1:]))
    try:
        sys.argv[1:] = _arguments(sys.argv[1:])
        _task()
    except Exception as error:
        sentence = one_sentence(error, known_keys)
        if sentence is None:
            raise
        sys.exit(f"error: {sentence}")
    from kd_lightning.cli.reports.sweep import last_failures

    if last_failures():
        sys.exit(1)


def _arguments(typed: list[str]) -> list[str]:
    """Send a resumed run to its own folder, before a new one is made; let a sweep have keys that only its jobs have.

    Raises:
        ConfigError: if there is no run to resume, or several are asked for.

    """
    swept = bool({"-m", "--multirun"} & set(typed))
    resumed = [a.removeprefix("resume=") for a in typed if a.startswith("resume=") and a != "resume=null"]
    if not resumed:
        return for_jobs_only(typed, known_keys) if swept else typed
    if swept:
        raise ConfigError("resume continues one run; leave -m away, or start the sweep again: it reuses its teachers.")
    folder = Path(resumed[-1])
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"resume={folder} is no run's folder: it has no config.yaml.")
    return [*typed, f"hydra.run.dir='{folder}'", "hydra.output_subdir=null"]


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def _task(cfg: DictConfig) -> float | None:
    """Carry out one job; in a sweep its error is kept in its folder, so that the others go on."""
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().mode == RunMode.RUN:
        return _single(cfg, run_dir)
    try:
        return _job(cfg, run_dir)
    except Exception as error:
        sentence = one_sentence(error, known_keys)
        write_text(run_dir / "error.txt", sentence or traceback.format_exc())
        log.error("Job %s failed: %s", run_dir.name, sentence or repr(error))
        return float("-inf" if cfg.task.mode == "max" else "inf")  # a search goes on, and looks elsewhere


def _single(cfg: DictConfig, run_dir: Path) -> float | None:
    try:
        return _job(cfg, run_dir)
    except Exception as error:
        sentence = one_sentence(error, known_keys)
        if sentence is None:
            raise
        sys.exit(f"error: {sentence}")


def _job(cfg: DictConfig, run_dir: Path) -> float | None:
    """Check the configuration as a whole, run it, and return the main metric."""
    from kd_lightning.cli.build import check_whole
    from kd_lightning.cli.run import run

    quiet()
    check_root_keys(cfg, schema.TrainSchema)
    cfg = _saved(cfg, run_dir) if cfg.resume is not None else settle(cfg)
    check_targets(cfg)
    check_whole("seed", cfg.seed)
    check_metric(cfg)
    metrics = run(cfg, run_dir)
    return metrics["student"]["metrics"].get(cfg.task.metric)


def check_metric(cfg: DictConfig) -> None:
    """Refuse a main metric that is not computed: it would be missed only after the first epoch.

    Raises:
        ConfigError: naming the metrics there are.

    """
    for own in (cfg, *cfg.tasks.values()):
        metric, computed = own.task.metric, [name for node in own.task.metrics.items() for name in _gives(*node)]
        if metric not in computed:
            raise ConfigError(f"task.metric={metric} is not in task.metrics. {hint(metric, computed)}")


def _gives(name: Any, node: Any) -> list[str]:
    """Return the names of the scores of one of a task's metrics."""
    made = get_object(node["_target_"]) if node is not None else None
    return list(getattr(made, "gives", ())) or [str(name)]


def _saved(cfg: DictConfig, run_dir: Path) -> DictConfig:
    """Return a resumed run's own configuration; values typed beside `resume` must be those it was made with.

    Where a group was chosen again, the whole configuration counts, and is compared before the first stage.
    """
    from kd_lightning.cli.run import check_same

    typed = [text.lstrip("+~").partition("=")[0].partition("@")[0] for text in HydraConfig.get().overrides.task]
    if any((CONFIGS / key).is_dir() for key in typed):
        return settle(cfg)
    saved, now = OmegaConf.load(run_dir / "config.yaml"), settle(cfg)
    for key in typed:
        if key != "resume":
            check_same(run_dir, key, OmegaConf.select(saved, key), OmegaConf.select(now, key))
    return saved  # type: ignore[return-value]


NAMES_OR_FOLDERS = ("path", "validation", "unlabelled")
"""Arguments of data modules that are a place, or else the name of a data set below `data.root`."""


def settle(cfg: DictConfig) -> DictConfig:
    """Make folders absolute and `auto` definite, so that the configuration means the same wherever it is read."""
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise ConfigError(f"'{missing[0]}' has no value: type {missing[0]}=VALUE.")
    settle_tasks(cfg)
    with open_dict(cfg):
        for own in (cfg, *cfg.tasks.values()):
            _settle_teacher(own.get("teacher", {}))
            _absolute(own.data, "root")
            for key in NAMES_OR_FOLDERS:
                if own.data.get(key) is not None and Path(str(own.data[key])).expanduser().exists():
                    _absolute(own.data, key)
        _absolute(cfg.student, "path")
    return cfg


def _settle_teacher(teacher: Any) -> None:
    if teacher.get("precision") == "auto":
        teacher.precision = fast_precision()
    paths = teacher.get("path")
    if isinstance(paths, DictConfig):
        for name in paths:
            _absolute(paths, str(name))
    elif paths is not None:
        _absolute(teacher, "path")


def _absolute(node: Any, key: str) -> None:
    if node.get(key) is not None:
        node[key] = str(Path(str(node[key])).expanduser().resolve())
