"""The stage `teacher`: find the fine-tuned teachers under their fingerprints, or make them once, and evaluate them."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch import seed_everything

from kd_lightning.core.files import write_json
from kd_lightning.core.hashing import digest
from kd_lightning.core.locks import build_once, cache_root
from kd_lightning.data import DataModule
from kd_lightning.models.export import export
from kd_lightning.models.hub import from_hub, model_folder
from kd_lightning.pipeline.checks import check_compatibility
from kd_lightning.pipeline.evaluate import evaluate_teachers
from kd_lightning.pipeline.settings import RunSettings, TaskSettings, without_module_paths
from kd_lightning.pipeline.setup import TEACHERS, TaskSetup, build_data, build_trainer, fit, load_setups
from kd_lightning.pipeline.stage import Stage, stage_folder
from kd_lightning.pipeline.teacher_model import fresh_teacher, origin_of, teacher_recipe
from kd_lightning.tasks import Task

log = logging.getLogger(__name__)

TRAINER_SHAPES = (
    "max_epochs", "max_steps", "precision", "accumulate_grad_batches", "gradient_clip_val", "limit_train_batches",
    "limit_val_batches", "val_check_interval", "check_val_every_n_epoch",
)  # fmt: skip
"""Trainer arguments that change what comes out of training, and so belong to a teacher's fingerprint."""


class FineTune(Stage):
    """Fine-tunes each task's teacher, unless it is there already, and evaluates the teachers as they will teach."""

    one_process = True

    def is_wanted(self, settings: RunSettings) -> bool:
        """Return whether any task has a teacher."""
        return any(task.teacher.exists for task in settings.tasks.values())

    def run(self, settings: RunSettings, run_dir: Path) -> dict[str, Any]:
        """Write `teachers.json`, which says where the teachers are, and return their scores."""
        folder = stage_folder(run_dir, self.name)
        if not (run_dir / TEACHERS).is_file():
            write_json(run_dir / TEACHERS, prepare_teachers(settings.tasks, folder))
        if not settings.has_teacher:
            return {}
        seed_everything(settings.seed, verbose=False)
        return evaluate_teachers(settings, load_setups(settings, run_dir), folder)


def prepare_teachers(tasks: Mapping[str, TaskSettings], folder: Path) -> dict[str, dict[str, str]]:
    """Return where each task's teachers are, task → name → folder, after fine-tuning those that are missing."""
    if len(tasks) > 1:
        for own in tasks.values():
            if own.teacher.path is None and own.teacher.exists:
                teacher_data(own)[1].setup("fit")  # a later task's data is checked before any teacher is trained
    seconds, folders = 0.0, {}
    for name, own in tasks.items():
        start, (found, made) = time.perf_counter(), find_teachers(own)
        seconds += time.perf_counter() - start if made else 0.0
        folders[name] = {teacher: str(path.resolve()) for teacher, path in found.items()}
    write_json(folder / "seconds.json", round(seconds, 2))
    return folders


def find_teachers(settings: TaskSettings) -> tuple[dict[str, Path], bool]:
    """Return the folders of a task's teachers by name, and whether one was trained for it now.

    Raises:
        ConfigError: `teacher.path` is no model's folder.

    """
    teacher = settings.teacher
    if teacher.path is not None:
        paths = teacher.path if isinstance(teacher.path, Mapping) else {teacher.name: teacher.path}
        return {name: _given(Path(path), settings) for name, path in paths.items()}, False
    if not teacher.exists or teacher.source is not None:
        return {}, False
    own = settings.of_teacher()
    task, data = teacher_data(own)
    folder = cache_root() / "teachers" / f"{teacher.name}-{digest(teacher_shape(own, task, data))}"
    if not folder.is_dir():
        model, student_data = fresh_teacher(settings, task, data), build_data(settings, data.processor)
        check_compatibility(TaskSetup(settings, task, student_data, {teacher.name: model}), model)
    training = folder.parent / f".{folder.name}.training"
    built = build_once(folder, lambda scratch: _fine_tune(own, task, data, scratch, training))
    shutil.rmtree(training, ignore_errors=True)
    log.info("Teacher %s: %s %s.", teacher.name, "fine-tuned into" if built else "found in", folder)
    return {teacher.name: folder}, built


def _given(folder: Path, settings: TaskSettings) -> Path:
    if settings.teacher.model is not None and (folder / "model.safetensors").is_file():
        return folder
    return model_folder(folder, "teacher.path", "fine-tuned model")


def teacher_data(settings: TaskSettings) -> tuple[Task, DataModule]:
    """Return the task, and the data with the teacher's own processor, or the data's where it brings none."""
    from transformers import AutoTokenizer

    pretrained = settings.teacher.pretrained
    if pretrained is not None and "tokenizer" in settings.data:
        settings = replace(settings, data={**settings.data, "tokenizer": None})
    task, data = instantiate(settings.task), build_data(settings)
    task.check_data(data)
    if pretrained is not None and data.needs_processor:
        data.processor = from_hub(AutoTokenizer.from_pretrained, pretrained)
    elif data.processor is None and data.needs_processor:
        data.processor = data.load_processor("train")
    return task, data


def teacher_shape(settings: TaskSettings, task: Task, data: DataModule) -> Any:
    """Return everything that shapes the fine-tuned weights: what the teacher's fingerprint is made of.

    Targets count by the bare names of their classes, so that a class may move to another module.
    """
    trainer = {name: settings.fitting.trainer.get(name) for name in TRAINER_SHAPES}
    recipe = [settings.fitting.optimizer, settings.fitting.scheduler, settings.task]
    hard = (settings.objective.get("terms") or {}).get("hard") or {}
    nodes = without_module_paths([*recipe, hard.get("loss")])
    return [origin_of(settings, task, data), data.fingerprint, data.training_settings, trainer, nodes, settings.seed]


def _fine_tune(settings: TaskSettings, task: Task, data: DataModule, folder: Path, training: Path) -> None:
    """Fine-tune on labels alone and keep the best epoch, with its curves beside it; resumes where a killed one was."""
    seed_everything(settings.seed, verbose=False)
    setup = TaskSetup(settings, task, data, {})
    module = setup.module(fresh_teacher(settings, task, data), None, setup.hard_objective())
    fit(module, data, build_trainer(settings.fitting, training), training)
    if training.is_dir():  # a fast_dev_run leaves no curves
        shutil.copytree(training, folder / "training", ignore=shutil.ignore_patterns("checkpoints"))
    node = settings.teacher.model
    recipe = teacher_recipe(node, task, data) if node is not None else None
    export(module, folder / "model", processor=data.processor, recipe=recipe)
    for path in (folder / "model").iterdir():
        path.rename(folder / path.name)
    (folder / "model").rmdir()
    (folder / "recipe.json").write_text(json.dumps(asdict(settings), indent=2))
