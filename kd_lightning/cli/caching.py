"""Filling teacher caches: what teachers say of the training rows, found under its fingerprint or made, once."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from lightning.pytorch import Trainer
from omegaconf import DictConfig
from rich.console import Console

from kd_lightning.cli.build import head_of, on_one_device
from kd_lightning.cli.lessons import Lesson
from kd_lightning.cli.teacher import has_teacher
from kd_lightning.core.errors import CacheError, ConfigError
from kd_lightning.core.locks import cache_root
from kd_lightning.data import DataModule
from kd_lightning.objective import Objective
from kd_lightning.teachers import Fingerprint, TeacherCache
from kd_lightning.teachers.cache.build import build_cache
from kd_lightning.teachers.cache.columns import Codec
from kd_lightning.teachers.cache.manifest import MANIFEST, Manifest
from kd_lightning.training.callbacks.progress_bar import ProgressBar

log = logging.getLogger(__name__)

ORDINARY = {
    "_target_", "accelerator", "devices", "num_nodes", "strategy", "precision", "max_epochs", "max_steps",
    "accumulate_grad_batches", "gradient_clip_val", "val_check_interval", "check_val_every_n_epoch",
    "limit_train_batches", "limit_val_batches", "log_every_n_steps", "num_sanity_val_steps", "enable_progress_bar",
    "enable_model_summary", "use_distributed_sampler",
}  # fmt: skip
"""Trainer arguments beside which `limit_train_batches` decides alone which rows are trained on, or fewer are."""


def check_cache(cfg: DictConfig) -> None:
    """Refuse a cache where it could not be right, before anything is trained.

    Raises:
        ConfigError: without a teacher, or where rows change from epoch to epoch.

    """
    if not cfg.cache:
        return
    if not has_teacher(cfg):
        raise ConfigError("cache=true keeps what a teacher says, and there is no teacher: leave cache out.")
    if any(node is not None for node in (cfg.data.get("augment") or {}).values()):
        raise ConfigError(
            "cache=true keeps what the teacher says of each row once, and 'augment' changes rows in every epoch: leave "
            "one of them out."
        )
    if head_of(cfg) == "masked-lm":
        raise ConfigError(
            "cache=true keeps what the teacher says of each row once, and a masked language model sees other tokens "
            "hidden in every epoch: leave cache out."
        )
    Codec(**_format(cfg))  # refuses what cannot be


def forget_lost_caches(result: Path) -> None:
    """Let a resumed run fill its caches again, where they were cleaned away since, or a damaged file was deleted.

    Args:
        result: the stage's own result.

    """
    folders = json.loads(result.read_text())["folders"].values() if result.is_file() else ()
    if not all(is_whole(Path(folder)) for folder in folders):
        result.unlink()


def is_whole(path: Path) -> bool:
    """Tell whether a cache is finished and no file of it is missing; what is in them is for a reader to check."""
    if not (path / MANIFEST).is_file():
        return False
    return all((path / info.name).is_file() for info in Manifest.open(path).shards)


def fill_cache(lesson: Lesson, objective: Objective, folder: Path, several: bool) -> tuple[Path | None, float]:
    """Return the folder with what a task's teachers say of all rows that are trained on, and the seconds it took.

    Args:
        lesson: the task, with its teachers and data.
        objective: bound to them; says which features are wanted. None are: there is nothing to keep.
        folder: of the stage.
        several: whether the task is one of several; which rows a cut run trains on is then not told beforehand.

    """
    start, source, wanted = time.perf_counter(), lesson.source(), list(objective.teacher_addresses)
    assert source is not None, "a run without a teacher has no such stage"
    if not wanted:
        return None, 0.0
    expected = TeacherCache.fingerprint_of(source, wanted, **_kept(lesson))
    path = _covering(expected) or _caches() / f"{_name(lesson.cfg)}-{expected}"
    loader = _missing(lesson, path, several)
    if loader is None:
        log.info("Teacher cache: found in %s.", path)
        return path, 0.0
    trainer = _trainer(lesson.cfg, folder)
    build_cache(source, loader, path, _held(path, wanted), **_kept(lesson), trainer=trainer, announce=_say)
    return path, time.perf_counter() - start


def _say(text: str) -> None:
    Console(soft_wrap=True).print(text, markup=False, highlight=False)


def _caches() -> Path:
    return cache_root() / "caches"


def _name(cfg: DictConfig) -> str:
    return f"{cfg.teacher.name}-{cfg.data.get('name', 'synthetic')}"


def _kept(lesson: Lesson) -> dict[str, Any]:
    return {**_format(lesson.cfg), "data": lesson.data.fingerprint}


def _format(cfg: DictConfig) -> dict[str, Any]:
    settings = cfg.teacher.get("cache") or {}
    return {"top_k": settings.get("top_k"), "dtype": settings.get("dtype", "bf16")}


def _covering(expected: Fingerprint) -> Path | None:
    """Return a finished cache of the same teacher and data that holds at least what is wanted."""
    for path in sorted(_caches().glob(f"*/{MANIFEST}")):
        try:
            if not Manifest.open(path.parent).fingerprint.differences(expected):
                return path.parent
        except CacheError as error:  # somebody else's trouble
            log.info("%s", error)
    return None


def _held(path: Path, wanted: list[str]) -> list[str]:
    """Return the features of a cache that more rows are added to, or those of a new one."""
    finished = (path / MANIFEST).is_file()
    return list(Manifest.open(path).fingerprint.parts["addresses"]) if finished else wanted


def _missing(lesson: Lesson, path: Path, several: bool) -> Any:
    """Return a loader of the rows that are wanted, or None where all are in the cache already."""
    data, there = lesson.data, np.zeros(0, np.int64)
    data.setup("fit")
    if is_whole(path):  # else what is there is found while building
        there = TeacherCache(path).sample_ids
    if data.train_rows is None:  # they are known only by going through them
        return None if len(there) else data.iterate_once()
    cut = None if several else _rows_of_cut_run(lesson.cfg, data)
    wanted = np.arange(len(data.train_rows)) if cut is None else cut
    return data.iterate_once(wanted) if len(np.setdiff1d(wanted, there)) else None  # what is there is passed over


def _rows_of_cut_run(cfg: DictConfig, data: DataModule) -> np.ndarray | None:
    """Return the rows that a run with `limit_train_batches`, and nothing else out of the ordinary, trains on."""
    trainer = cfg.trainer
    limit, epochs, devices = (trainer.get(name) for name in ("limit_train_batches", "max_epochs", "devices"))
    plain = trainer.get("num_nodes") == 1 and isinstance(devices, int) and devices > 0 and not set(trainer) - ORDINARY
    if limit is None or not plain or not isinstance(epochs, int) or epochs < 1:
        return None
    return data.visited_rows(epochs, limit, devices)


def _trainer(cfg: DictConfig, folder: Path) -> Trainer:
    """Build a Trainer that goes through everything, shows a progress bar and writes nothing of its own."""
    quiet = {"logger": False, "enable_checkpointing": False, "callbacks": [ProgressBar(leave=True)]}
    whole = {"limit_predict_batches": None, "fast_dev_run": False, "overfit_batches": 0.0}
    return instantiate(on_one_device(cfg).trainer, **quiet, **whole, default_root_dir=str(folder))
