"""The stage `cache`: teacher outputs of the training rows, found under their fingerprint or computed once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import get_object
from lightning.pytorch import Trainer, seed_everything
from rich.console import Console

from kd_lightning.core.errors import CacheError
from kd_lightning.core.locks import cache_root
from kd_lightning.objective import Objective
from kd_lightning.objective.objective import joined_state
from kd_lightning.pipeline.build import build_modules, load_setups, quiet_trainer
from kd_lightning.pipeline.checks import check_views
from kd_lightning.pipeline.places import ORIGINAL, read_teachers, teachers_file
from kd_lightning.pipeline.settings import FittingSettings, RunSettings
from kd_lightning.pipeline.setup import TaskSetup
from kd_lightning.pipeline.stage import Stage, read_result, stage_folder
from kd_lightning.teachers import Fingerprint, TeacherCache
from kd_lightning.teachers.cache.build import build_cache
from kd_lightning.teachers.cache.manifest import MANIFEST, Manifest
from kd_lightning.training.callbacks import ProgressBar

log = logging.getLogger(__name__)

ORDINARY = {
    "_target_", "accelerator", "devices", "num_nodes", "strategy", "precision", "max_epochs", "max_steps",
    "accumulate_grad_batches", "gradient_clip_val", "val_check_interval", "check_val_every_n_epoch",
    "limit_train_batches", "limit_val_batches", "log_every_n_steps", "num_sanity_val_steps", "enable_progress_bar",
    "enable_model_summary", "use_distributed_sampler",
}  # fmt: skip
"""Trainer arguments beside which `limit_train_batches` decides alone which rows are trained on, or fewer are."""


class BuildCache(Stage):
    """Writes the teachers' outputs of all training rows to disk, unless a cache has them already."""

    inputs = ("teacher",)
    needs_teacher = True
    one_process = True

    def run(self, settings: RunSettings, run_dir: Path) -> dict[str, Any]:
        """Return the caches' folders by task, and the seconds they took to build."""
        seed_everything(settings.seed, verbose=False)
        teachers, folders, seconds = read_teachers(teachers_file(run_dir), settings), {}, 0.0
        learning = [load_setups(own, teachers) for own in learning_from_cache(settings)]
        folder = stage_folder(run_dir, self.name)
        whole = {"limit_predict_batches": None, "fast_dev_run": False, "overfit_batches": 0.0}
        bar = {"enable_progress_bar": settings.fitting.trainer.get("enable_progress_bar", True)}
        trainer = quiet_trainer(settings.fitting, one_device=True, **whole, **bar)
        modules = [build_modules(setups) for setups in learning]
        for name, setup in learning[0].items():
            ids = None if len(learning[0]) > 1 else _ids_of_all(own[name] for own in learning)
            objectives = [own[name].objective for own in modules]
            path, spent = _fill(setup, objectives, ids, partial(trainer, folder))
            seconds += spent
            if path is not None:
                folders[name] = str(path)
        return {"folders": folders, "seconds": round(seconds, 2)}

    def check_outputs(self, run_dir: Path) -> None:
        """Remove the result where a cache was deleted since, or a damaged file of it."""
        result = read_result(run_dir, self.name) or {"folders": {}}
        if not all(is_complete(Path(folder)) for folder in result["folders"].values()):
            (stage_folder(run_dir, self.name) / "result.json").unlink()


def learning_from_cache(settings: RunSettings) -> list[RunSettings]:
    """Return the settings of all stages that learn from the run's own teachers on the run's own data, each once."""
    found: list[RunSettings] = []
    for name, node in settings.plan.items():
        if node is None or getattr(get_object(node["_target_"]), "alone", True) or not node.get("enabled", True):
            continue
        own = settings.of(name)
        if node.get("teacher", ORIGINAL) == ORIGINAL and own.shares_cache and own not in found:
            found.append(own)
    return found or [settings]


def is_complete(path: Path) -> bool:
    """Tell whether a cache is finished and has all its files; what is in them is for a reader to check."""
    if not (path / MANIFEST).is_file():
        return False
    return all((path / info.name).is_file() for info in Manifest.open(path).shards)


def _fill(
    setup: TaskSetup, objectives: Sequence[Objective], ids: np.ndarray | None, make_trainer: Callable[..., Trainer]
) -> tuple[Path | None, float]:
    """Return the folder of the cache of a task's teachers, and the seconds that its building took now.

    Args:
        setup: the task, with its teachers and data.
        objectives: bound to them; their teacher addresses are cached. Where they have none, there is nothing to cache.
        ids: of the rows, or of their views, that are trained on; None: all.
        make_trainer: builds a Trainer of callbacks.

    """
    start, source = time.perf_counter(), setup.source()
    wanted = list(dict.fromkeys(address for objective in objectives for address in objective.teacher_addresses))
    if not wanted:
        return None, 0.0
    data, teacher = setup.data, setup.settings.teacher
    assert source is not None and teacher is not None, "a run without a teacher has no such stage"  # noqa: PT018
    data.setup("fit")
    check_views(data)
    stored: dict[str, Any] = {"top_k": teacher.cache_top_k, "dtype": teacher.cache_dtype, "data": data.cached_as}
    stored["state"] = joined_state(objectives)
    expected = TeacherCache.fingerprint_of(source, wanted, **stored)
    path = _covering(expected)
    if path is None:
        path = cache_root() / "caches" / f"{teacher.name}-{data.name}-{expected}".replace("/", "_")
    cached = TeacherCache(path).sample_ids if is_complete(path) else np.zeros(0, np.int64)
    ids = data.cache_ids() if ids is None else ids
    if len(cached) if ids is None else not len(np.setdiff1d(ids, cached)):
        log.info("Teacher cache: found in %s.", path)
        return path, 0.0
    if (path / MANIFEST).is_file():  # more rows are added to a finished cache, of the features it has
        wanted = list(Manifest.open(path).fingerprint.parts["addresses"])
    build_cache(
        source,
        data.iterate_once(ids),
        path,
        wanted,
        **stored,
        trainer=make_trainer([ProgressBar(leave=True)]),
        announce=_print,
    )
    return path, time.perf_counter() - start


def _print(text: str) -> None:
    Console(soft_wrap=True).print(text, markup=False, highlight=False)


def _covering(expected: Fingerprint) -> Path | None:
    """Return a finished cache of the same teacher and data that has at least the expected features."""
    for path in sorted((cache_root() / "caches").glob(f"*/{MANIFEST}")):
        try:
            if not Manifest.open(path.parent).fingerprint.differences(expected):
                return path.parent
        except CacheError as error:  # an unreadable cache of another run
            log.info("%s", error)
    return None


def _ids_of_all(setups: Iterable[TaskSetup]) -> np.ndarray | None:
    """Return the cache ids of what any stage trains on; None: all."""
    found = [_ids_of_stage(setup.settings.fitting, setup) for setup in setups]
    some = [ids for ids in found if ids is not None]
    return np.unique(np.concatenate(some)) if len(some) == len(found) > 1 else found[0] if len(found) == 1 else None


def _ids_of_stage(fitting: FittingSettings, setup: TaskSetup) -> np.ndarray | None:
    """Return the cache ids of what a stage trains on: some rows with `limit_train_batches`, no more views than epochs.

    None, which means all, where anything else in the Trainer's arguments is out of the ordinary.
    """
    if setup.settings.curriculum is not None:  # any row may come in any epoch
        return None
    trainer, devices = fitting.trainer, fitting.trainer.get("devices")
    limit, epochs = trainer.get("limit_train_batches"), trainer.get("max_epochs")
    if trainer.get("num_nodes") != 1 or set(trainer) - ORDINARY or not (isinstance(epochs, int) and epochs > 0):
        return None
    setup.data.setup("fit")
    if limit is None:
        return setup.data.cache_ids(epochs)
    return setup.data.visited_rows(epochs, limit, devices) if isinstance(devices, int) and devices > 0 else None
