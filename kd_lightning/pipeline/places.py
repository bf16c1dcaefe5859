"""Where the models of a run are: its teachers, and the students that its stages have exported."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from kd_lightning.core.errors import ConfigError
from kd_lightning.core.files import read_json
from kd_lightning.pipeline.settings import RunSettings
from kd_lightning.pipeline.stage import stage_folder

TEACHERS = "teachers.json"
"""The file of a run's folder, or of a stage's, that says where the teachers are that were found or made."""

TEACHER, STUDENT = "teacher", "student"
"""The stages that make a run's own teachers, and the student that the run is for."""

FRESH, ORIGINAL = "fresh", "original"
"""A stage's student and teacher where it names no other stage: a new one, and the run's own."""

Folders: TypeAlias = dict[str, dict[str, str]]
"""Where models are: task → name → folder; a run of one task has the task ""."""


def teachers_file(run_dir: Path, stage: str = TEACHER) -> Path:
    """Return the file that says where the teachers are that a stage has found or made."""
    return run_dir / TEACHERS if stage == TEACHER else stage_folder(run_dir, stage) / TEACHERS


def read_teachers(file: Path, settings: RunSettings) -> Folders:
    """Return where teachers are.

    Raises:
        ConfigError: the file is damaged, or of another run.

    """
    found = read_json(file, "Delete it, and the teachers are looked for again.")
    if found.keys() != settings.tasks.keys() or not all(isinstance(own, dict) for own in found.values()):
        raise ConfigError(f"{file} is of another run. Delete it, and the teachers are looked for again.")
    return found


def home_of(stage: str, run_dir: Path) -> Path:
    """Return the folder below which a stage writes predictions and students: of `student` it is the run's."""
    return run_dir if stage == STUDENT else stage_folder(run_dir, stage)


def models_of(stage: str, settings: RunSettings, run_dir: Path) -> Folders:
    """Return where the models are that a stage has made: its teachers, or else the students in its `student/`.

    Raises:
        ConfigError: it has made none.

    """
    if (file := teachers_file(run_dir, stage)).is_file():
        return read_teachers(file, settings)
    place = home_of(stage, run_dir) / "student"
    if not place.is_dir():
        raise ConfigError(f"The stage '{stage}' made no model: there is no {place}.")
    return {task: {stage: str(place / task)} for task in settings.tasks}
