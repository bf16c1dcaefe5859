"""The stage `teacher`: find the fine-tuned teachers under their fingerprints, or make them once, and evaluate them."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import seed_everything
from torch import nn

from kd_lightning.core.checksums import damage
from kd_lightning.core.files import read_json, remove_leftovers, write_json
from kd_lightning.core.hashing import digest
from kd_lightning.core.locks import build_once, cache_root
from kd_lightning.models.export import export
from kd_lightning.models.hub import model_folder
from kd_lightning.pipeline.build import build_trainer, fit, load_setups, quiet_trainer
from kd_lightning.pipeline.checks import follows_student
from kd_lightning.pipeline.evaluate import evaluate_teachers
from kd_lightning.pipeline.places import read_teachers, teachers_file
from kd_lightning.pipeline.settings import RunSettings, TaskSettings, TeacherSettings
from kd_lightning.pipeline.setup import TaskSetup, student_setup, task_without_metrics, teacher_setup
from kd_lightning.pipeline.stage import Made, Stage, drop_damaged, stage_folder
from kd_lightning.pipeline.teacher_model import load_teacher

log = logging.getLogger(__name__)

SECONDS = "seconds.json"
"""How long the teachers' training took, which is reported even where the stage is repeated."""


class FineTune(Stage):
    """Fine-tunes each task's teacher, unless it is there already, and evaluates the teachers as they will teach.

    Writes `teachers.json`: where the teachers are. A run without teachers has nothing to evaluate.
    """

    one_process = True

    def run(self, settings: RunSettings, run_dir: Path) -> dict[str, Any]:
        """Return the teachers' scores, sizes and latency."""
        folder = stage_folder(run_dir, self.name)
        places = teachers_file(run_dir, self.name)
        fits = not settings.stages  # stages with changes were checked with their own objective, and none may have this
        if not places.is_file() or _missing(places):
            write_json(places, find_teachers(settings.tasks, folder, fits))
        if not settings.has_teacher:
            return {}
        if any(own.teacher is not None and follows_student(own.teacher.source) for own in settings.tasks.values()):
            return {}  # it becomes what it is in the student's training
        make_trainer = quiet_trainer(settings.fitting, one_device=True)
        seed_everything(settings.seed, verbose=False)
        setups = load_setups(settings, read_teachers(places, settings))
        return evaluate_teachers(setups, folder, make_trainer, as_teachers=fits)

    def check(self, settings: RunSettings, made: Mapping[str, Made]) -> Made:
        """Return the teachers, untrained where they are to be fine-tuned."""
        return {task: _untrained(own) for task, own in settings.tasks.items()}

    def check_outputs(self, run_dir: Path) -> None:
        """Remove the result where the file that says where the teachers are, or one of them, is gone or damaged."""
        places, result = teachers_file(run_dir, self.name), stage_folder(run_dir, self.name) / "result.json"
        drop_damaged(places)
        if (problem := _missing(places)) is None:
            return
        if result.is_file():
            log.warning("%s, so the stage '%s' runs again.", problem, self.name)
        places.unlink(missing_ok=True)
        result.unlink(missing_ok=True)


def _untrained(settings: TaskSettings) -> tuple[dict[str, nn.Module], Any]:
    teacher = settings.teacher
    if teacher is None or teacher.source is not None:
        return {}, None
    if teacher.path is None:
        setup = teacher_setup(settings)
        return {teacher.name: setup.fresh_teacher()}, setup.data.processor
    paths = teacher.path if isinstance(teacher.path, dict) else {teacher.name: teacher.path}
    task, trust = task_without_metrics(settings.task), teacher.model is not None
    loaded = {name: load_teacher(Path(path), task, trust) for name, path in paths.items()}
    return {name: model for name, (model, _) in loaded.items()}, next((own for _, own in loaded.values()), None)


def _missing(places: Path) -> str | None:
    """Return what is wrong with the teachers that a file tells of; None: nothing."""
    if not places.is_file():
        return f"{places} is gone"
    tasks = read_json(places).values()
    for folder in [Path(path) for own in tasks if isinstance(own, dict) for path in own.values()]:
        if not folder.is_dir():
            return f"The teacher in {folder} is gone"
        if found := damage(folder):
            return f"The teacher in {folder} is damaged ({found})"
    return None


def find_teachers(tasks: Mapping[str, TaskSettings], folder: Path, fits: bool = True) -> dict[str, dict[str, str]]:
    """Return where each task's teachers are, task → name → folder, after fine-tuning those that are missing.

    Args:
        tasks: by name.
        folder: of the stage.
        fits: whether student and objective must fit a teacher before it is fine-tuned.

    """
    for own in tasks.values() if len(tasks) > 1 else ():
        if own.teacher is not None and own.teacher.path is None and own.teacher.source is None:
            teacher_setup(own).data.setup("fit")  # a later task's data is checked before any teacher is trained
    seconds, folders = 0.0, {}
    for name, own in tasks.items():
        start, (found, built) = time.perf_counter(), find_teacher(own, fits)
        seconds += time.perf_counter() - start if built else 0.0
        folders[name] = {teacher: str(path.resolve()) for teacher, path in found.items()}
    write_json(folder / SECONDS, {"seconds": round(seconds, 2)})
    return folders


def find_teacher(settings: TaskSettings, fits: bool = True) -> tuple[dict[str, Path], bool]:
    """Return the folders of a task's teachers by name, and whether one was trained for it now.

    Args:
        settings: of the task.
        fits: whether student and objective must fit a teacher before it is fine-tuned.

    Raises:
        ConfigError: `teacher.path` is no model's folder.

    """
    teacher = settings.teacher
    if teacher is None or teacher.source is not None:
        return {}, False
    if teacher.path is not None:
        paths = teacher.path if isinstance(teacher.path, Mapping) else {teacher.name: teacher.path}
        return {name: _given(Path(path)) for name, path in paths.items()}, False
    setup = teacher_setup(settings)
    folder = cache_root() / "teachers" / f"{teacher.name}-{digest(setup.teacher_shape())}"
    if fits and not folder.is_dir():
        model = setup.fresh_teacher()
        student_setup(settings, {teacher.name: model}, setup.data.processor).check(model)
    training = folder.parent / f".{folder.name}.training"
    built = build_once(folder, lambda scratch: _fine_tune(setup, teacher, scratch, training))
    shutil.rmtree(training, ignore_errors=True)
    log.info("Teacher %s: %s %s.", teacher.name, "fine-tuned into" if built else "found in", folder)
    return {teacher.name: folder}, built


def _given(folder: Path) -> Path:
    exported = (folder / "model.yaml").is_file()
    return folder if exported else model_folder(folder, "teacher.path", "fine-tuned model")


def _fine_tune(setup: TaskSetup, teacher: TeacherSettings, folder: Path, training: Path) -> None:
    """Fine-tune on labels alone and keep the best epoch, with its curves beside it; resumes where a killed one was."""
    remove_leftovers(training, exclusive=True)  # the teacher's folder is locked
    seed_everything(setup.settings.seed, verbose=False)
    module, recipe = setup.module(setup.fresh_teacher(), None, teacher.fitting), setup.teacher_recipe()
    fit(module, setup.data, build_trainer(teacher.fitting, training), training)
    if training.is_dir():  # a fast_dev_run leaves no curves
        shutil.copytree(training, folder / "training", ignore=shutil.ignore_patterns("checkpoints"))
    export(module, folder / "model", processor=setup.data.processor, recipe=recipe)
    for path in (folder / "model").iterdir():
        path.rename(folder / path.name)
    (folder / "model").rmdir()
    write_json(folder / "recipe.json", asdict(setup.settings))
