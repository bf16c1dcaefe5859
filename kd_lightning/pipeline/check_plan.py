"""Checks of all stages of a plan before the first one begins, with untrained models where trained ones will be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from lightning.pytorch.utilities import CombinedLoader
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from kd_lightning.core.errors import ConfigError, KDError
from kd_lightning.pipeline.checks import check_settings
from kd_lightning.pipeline.distil import Distil
from kd_lightning.pipeline.exit_curve import ExitCurve
from kd_lightning.pipeline.fine_tune import FineTune
from kd_lightning.pipeline.mutual import Mutual
from kd_lightning.pipeline.places import TEACHER
from kd_lightning.pipeline.settings import RunSettings, TaskSettings
from kd_lightning.pipeline.setup import TaskSetup, student_setup, task_without_metrics, teacher_setup
from kd_lightning.pipeline.stage import Stage
from kd_lightning.pipeline.teacher_model import load_teacher

Made: TypeAlias = dict[str, tuple[dict[str, nn.Module], Any]]
"""What a stage makes, untrained: task → models by name, and the processor saved with them."""


def check_plan(stages: Sequence[Stage], settings: RunSettings) -> None:
    """Raise an error where a stage's settings, student and teacher do not go together.

    A run whose stages change nothing and name no other is checked by its first stages.

    Args:
        stages: in their order.
        settings: of the run.

    Raises:
        KDError: of the first stage that cannot be, naming it.

    """
    if not any(_is_special(stage, settings) for stage in stages):
        return
    made: dict[str, Made] = {}
    for stage in stages:
        own = settings.of(stage.name)
        try:
            check_settings(own)
            if isinstance(stage, FineTune):
                made[stage.name] = {task: _untrained_teacher(of_task) for task, of_task in own.tasks.items()}
            elif isinstance(stage, Distil):
                made[stage.name] = _checked(stage, own, made)
            elif isinstance(stage, Mutual):
                made[stage.name] = _checked_peers(stage, own, made)
            elif isinstance(stage, ExitCurve):
                there = made.get(stage.student, {})
                stage.check(own, {task: next(iter(models.values())) for task, (models, _) in there.items()})
        except KDError as error:
            raise type(error)(f"In stage '{stage.name}': {error}") from error


def _is_special(stage: Stage, settings: RunSettings) -> bool:
    refers = isinstance(stage, Mutual | ExitCurve) or (isinstance(stage, Distil) and stage.refers)
    return refers or stage.name in settings.stages


def _untrained_teacher(settings: TaskSettings) -> tuple[dict[str, nn.Module], Any]:
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


def _checked(stage: Distil, settings: RunSettings, made: dict[str, Made]) -> Made:
    """Check a stage on two rows and return its students."""
    found: Made = {}
    first: TaskSetup | None = None
    for task, own in settings.tasks.items():
        setup = _setup(stage, task, own, made, first)
        first = first or setup
        like = first.model if len(settings.tasks) > 1 else None
        if stage.start and setup.model is None:  # it goes on as it was built: like the run's own teacher
            like = next(iter(setup.models.values()), None)
        source = None if stage.alone else setup.source()
        student = setup.student(like) if source is None else setup.check(source, like)
        found[task] = {stage.name: student}, setup.data.saved_processor
    return found


def _checked_peers(stage: Mutual, settings: RunSettings, made: dict[str, Made]) -> Made:
    """Check students that teach each other on two rows, and return the first of them."""
    (own,) = settings.tasks.values()
    models, processor = made.get(TEACHER, {}).get("", ({}, None))
    setup = student_setup(own, models, processor, labels_only=True)
    module, _ = stage.module(settings, setup)
    setup.data.setup("fit")
    for batch, _, _ in CombinedLoader(setup.data.val_dataloader(), "sequential"):
        with torch.no_grad():
            module.compare(apply_to_collection(batch, Tensor, lambda x: x[:2]))
        break
    return {"": ({stage.name: next(iter(module.students.values()))}, setup.data.saved_processor)}


def _setup(stage: Distil, task: str, own: TaskSettings, made: dict[str, Made], first: TaskSetup | None) -> TaskSetup:
    """Return a task with the models that are going to teach it."""
    for name in (*stage.teachers, *([stage.start] if stage.start else [])):
        if name not in made:
            raise ConfigError(f"The stage '{name}' makes no model: it cannot teach, and no student goes on from it.")
    taught_by = [made[name][task] for name in stage.teachers or (TEACHER,) if name in made]
    models = {name: model for several, _ in taught_by for name, model in several.items()}
    if stage.teachers and own.teacher is None:
        raise ConfigError(f"It is taught by {', '.join(stage.teachers)}, and teacher=none leaves every teacher out.")
    if stage.teachers and own.teacher is not None:
        own = replace(own, teacher=replace(own.teacher, source=None, weights=None))
    processor = next((one for _, one in taught_by), None)
    return student_setup(own, models, processor, first.data.processor if first else None, labels_only=stage.alone)
