"""The stages that train students: `alone`, on labels only, and `student`, distilled from the teachers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch import Trainer, seed_everything
from rich.console import Console
from torch import nn

from kd_lightning.core.checksums import damage, write_checksums
from kd_lightning.core.errors import ConfigError, DamagedError
from kd_lightning.models.export import export
from kd_lightning.models.inspection import latency_ms
from kd_lightning.pipeline.build import Fit, Keep, build_fit, fit, load_setups, parameters
from kd_lightning.pipeline.evaluate import evaluate
from kd_lightning.pipeline.places import FRESH, ORIGINAL, TEACHER, home_of, models_of, read_teachers, teachers_file
from kd_lightning.pipeline.report.summary import startup
from kd_lightning.pipeline.settings import RunSettings, TaskSettings
from kd_lightning.pipeline.setup import TaskSetup, student_setup
from kd_lightning.pipeline.stage import Made, Stage, read_result, stage_folder

log = logging.getLogger(__name__)

CURVES = Path("csv", "version_0")
"""The folder of a stage's curves as CSV."""


class Distil(Stage):
    """Trains the students under their objectives and exports the best checkpoint.

    The stage `student` exports into the run's `student/`, others into `stages/NAME/student`.

    Args:
        name: of its folder and of its entry in `metrics.json`.
        enabled: whether this run has it.
        student: `fresh`, or the name of the stage whose students go on here, without its projections.
        teacher: `original`, which the run's teachers are, or the stages whose models teach: one name, or a list of
            several, whose outputs are averaged.
        keep: which weights are evaluated and exported: `best` by the main metric, or `last`, for a stage that does not
            train what the metric reads.

    """

    alone: ClassVar[bool] = False
    """Whether the students learn from labels alone."""

    def __init__(
        self,
        name: str,
        enabled: bool = True,
        student: str = FRESH,
        teacher: str | list[str] = ORIGINAL,
        keep: Keep = "best",
    ) -> None:
        super().__init__(name, enabled)
        self.start = None if student == FRESH else student
        self.teachers = () if teacher == ORIGINAL else (teacher,) if isinstance(teacher, str) else (*teacher,)
        self.keep = keep
        needed = self.teachers or ((TEACHER,) if self.alone else (TEACHER, "cache"))
        self.inputs = needed if self.start is None else (self.start, *needed)

    @property
    def refers(self) -> bool:
        """Whether its student or its teachers are of other stages."""
        return bool(self.start or self.teachers)

    def run(self, settings: RunSettings, run_dir: Path) -> dict[str, Any]:
        """Train, evaluate and export; return scores, size and latency."""
        seed_everything(settings.seed, verbose=False)
        folder = stage_folder(run_dir, self.name)
        built = build_fit(settings, self.setups(settings, run_dir), folder, self.alone, self.caches(settings, run_dir))
        if built.trainer.is_global_zero and not self.alone:
            announce(built, built.trainer)
        fit(built.module, built.data, built.trainer, folder, self.keep)
        if built.trainer.is_global_zero and (folder / CURVES).is_dir():
            write_checksums(folder / CURVES, content=False)
        return finish(built, self.home(run_dir))

    def check(self, settings: RunSettings, made: Mapping[str, Made]) -> Made:
        """Compare untrained students with their untrained teachers on two rows, and return the students.

        Raises:
            KDError: where they do not go together.

        """
        found: Made = {}
        first: TaskSetup | None = None
        for task, own in settings.tasks.items():
            setup = self._untrained(task, own, made, first)
            first = first or setup
            like = first.model if len(settings.tasks) > 1 else None
            if self.start and setup.model is None:  # it goes on as it was built: like the run's own teacher
                like = next(iter(setup.models.values()), None)
            source = None if self.alone else setup.source()
            student = setup.student(like) if source is None else setup.check(source, like)
            found[task] = {self.name: student}, setup.data.saved_processor
        return found

    def _untrained(self, task: str, own: TaskSettings, made: Mapping[str, Made], first: TaskSetup | None) -> TaskSetup:
        """Return a task with the models that are going to teach it."""
        for name in (*self.teachers, *([self.start] if self.start else [])):
            if name not in made:
                raise ConfigError(
                    f"The stage '{name}' makes no model: it cannot teach, and no student goes on from it."
                )
        taught_by = [made[name][task] for name in self.teachers or (TEACHER,) if name in made]
        models = {name: model for several, _ in taught_by for name, model in several.items()}
        if self.teachers and own.teacher is None:
            raise ConfigError(f"It is taught by {', '.join(self.teachers)}, and teacher=none leaves every teacher out.")
        if self.teachers and own.teacher is not None:
            own = replace(own, teacher=replace(own.teacher, source=None, weights=None))
        processor = next((one for _, one in taught_by), None)
        return student_setup(own, models, processor, first.data.processor if first else None, labels_only=self.alone)

    def home(self, run_dir: Path) -> Path:
        """Return the folder below which predictions and students are written."""
        return home_of(self.name, run_dir)

    def setups(self, settings: RunSettings, run_dir: Path) -> dict[str, TaskSetup]:
        """Return the tasks with their teachers and data, and what their students start from."""
        starts = models_of(self.start, settings, run_dir) if self.start else None
        if not self.teachers:
            folders = read_teachers(teachers_file(run_dir), settings)
            return load_setups(settings, folders, labels_only=self.alone, starts=starts)
        folders = {
            task: {name: one for name in self.teachers for one in models_of(name, settings, run_dir)[task].values()}
            for task in settings.tasks
        }
        return load_setups(settings, folders, starts=starts, own_models=True)

    def caches(self, settings: RunSettings, run_dir: Path) -> dict[str, str]:
        """Return the folders of the teachers' caches by task; none where this stage's teachers run live."""
        if self.alone or self.teachers or not settings.shares_cache:
            return {}
        return (read_result(run_dir, "cache") or {}).get("folders", {})

    def check_own(self, run_dir: Path) -> None:
        """Check that a finished stage's student is as it was exported; warn where its curves are not as they were.

        Raises:
            DamagedError: naming the file, and how the student is exported again.

        """
        folder = stage_folder(run_dir, self.name)
        if not (folder / "result.json").is_file():
            return
        if (problem := damage(folder / CURVES)) is not None:
            log.warning("The curves in %s are damaged (%s): what is left of them is drawn.", folder / CURVES, problem)
        student = self.home(run_dir) / "student"
        for place in (student, *student.glob("*/")):  # of several tasks each has its own
            if (problem := damage(place)) is not None:
                raise DamagedError(
                    f"The student in {place} is not as it was exported ({problem}). Delete {folder / 'result.json'}, "
                    "and it is exported again."
                )


class Baseline(Distil):
    """Trains the same students on labels alone, into `stages/NAME/student`: what distillation is compared with."""

    needs_teacher = True
    alone = True


def finish(built: Fit, home: Path) -> dict[str, Any]:
    """Evaluate and export the students; return scores, size and latency.

    Args:
        built: what was trained.
        home: the folder for `predictions/` and `student/`.

    """
    recorders = {name: setup.task.recorder(setup.data) for name, setup in built.setups.items()}
    scores = evaluate(built.make_trainer, built.module, built.data, home, recorders)
    students = {name: module.student for name, module in built.modules.items()}
    if built.trainer.is_global_zero:
        for name, setup in built.setups.items():
            place, processor = home / "student" / name, setup.data.saved_processor
            export(built.modules[name], place, processor=processor, recipe=built.recipes[name])
    setup, student = next(iter(built.setups.values())), next(iter(students.values()))
    return {
        **scores,
        "parameters": parameters(nn.ModuleList(students.values())),
        "latency_ms": latency_ms(student, setup.task.example_input(student, setup.data)),
    }


def describe_student(student: nn.Module, target: str) -> str:
    """Return what to call a student: its kind and size, by its own configuration; else what builds it.

    Example:
        >>> describe_student(nn.Linear(2, 2), "mine.small_network")
        'small_network'

    """
    config = getattr(student, "config", None)
    layers, width = (getattr(config, key, None) for key in ("num_hidden_layers", "hidden_size"))
    if not isinstance(layers, int) or not isinstance(width, int):
        return target.rpartition(".")[-1]
    return f"{getattr(config, 'model_type', None) or type(student).__name__}, {layers} layers of width {width}"


def announce(built: Fit, trainer: Trainer) -> None:
    """Print what is about to be trained, before the first step."""
    for name, setup in built.setups.items():
        data, own, module = setup.data, setup.settings, built.modules[name]
        data.setup("fit")
        sizes: dict[str, Any] = dict(data.sizes)
        if data.teacher_processor is not None:
            for role, processor in (("student", data.processor), ("teacher", data.teacher_processor)):
                sizes[f"{role}'s {data.processor_key}"] = data.describe_processor(processor)
        startup(
            Console(),
            teacher_name=(" + ".join(setup.models) + ", cached" * own.cache) if setup.models else None,
            teacher_size=sum(map(parameters, setup.models.values())),
            student_name=describe_student(module.student, own.student.get("_target_", "student")),
            student_size=parameters(module.student),
            objective=module.objective,
            data={"name": name or data.name, **sizes},
            trainer={
                "epochs": trainer.max_epochs,
                "batch": own.data.get("batch_size"),
                "precision": trainer.precision,
                "devices": trainer.world_size,
            },
        )
