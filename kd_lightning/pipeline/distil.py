"""The stages that train students: `alone`, on labels only, and `student`, distilled from the teachers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch import Trainer, seed_everything
from rich.console import Console
from torch import nn

from kd_lightning.models.export import export
from kd_lightning.models.inspection import latency_ms
from kd_lightning.pipeline.evaluate import evaluate
from kd_lightning.pipeline.report.summary import startup
from kd_lightning.pipeline.settings import RunSettings
from kd_lightning.pipeline.setup import (
    TaskSetup,
    build_module,
    build_trainer,
    fit,
    load_setups,
    modules_of,
    run_data,
)
from kd_lightning.pipeline.stage import Stage, read_result, stage_folder
from kd_lightning.training import DistillationModule


class Distil(Stage):
    """Trains the students under their objectives and exports the best checkpoint into the run's `student/`."""

    inputs: ClassVar[tuple[str, ...]] = ("teacher", "cache")

    alone: ClassVar[bool] = False
    """Whether the students learn from labels alone."""

    def run(self, settings: RunSettings, run_dir: Path) -> dict[str, Any]:
        """Train, evaluate and export; return scores, size and latency."""
        seed_everything(settings.seed, verbose=False)
        settings = settings.labels_only() if self.alone else settings
        setups = load_setups(settings, run_dir)
        caches = (read_result(run_dir, "cache") or {}).get("folders", {}) if settings.cache and not self.alone else {}
        module, data = build_module(setups, self.alone, caches), run_data(settings, setups)
        folder = stage_folder(run_dir, self.name)
        home = folder if self.alone else run_dir
        trainer = build_trainer(settings.fitting, folder)
        if trainer.is_global_zero and not self.alone:
            announce(setups, modules_of(module), trainer)
        fit(module, data, trainer, folder)
        recorders = {name: setup.task.recorder(setup.data) for name, setup in setups.items()}
        metrics = evaluate(settings.fitting, module, data, home, recorders)
        students = {name: own.student for name, own in modules_of(module).items()}
        if trainer.is_global_zero:
            for name, setup in setups.items():
                recipe = setup.student_recipe(students[name])
                export(modules_of(module)[name], home / "student" / name, processor=setup.data.processor, recipe=recipe)
        task, student = next(iter(setups.values())).task, next(iter(students.values()))
        return {
            "metrics": metrics,
            "parameters": _size(nn.ModuleList(students.values())),
            "latency_ms": latency_ms(student, task.example_input(student)),
        }


class Baseline(Distil):
    """Trains the same students on labels alone: what distillation is compared with."""

    inputs = ("teacher",)
    alone = True

    def is_wanted(self, settings: RunSettings) -> bool:
        """Return whether `baseline=true`; a run without teachers has nothing to compare."""
        return settings.baseline and settings.has_teacher


def announce(setups: Mapping[str, TaskSetup], modules: Mapping[str, DistillationModule], trainer: Trainer) -> None:
    """Print what is about to be trained, before the first step."""
    for name, setup in setups.items():
        data, own = setup.data, setup.settings
        data.setup("fit")
        pieces = {}
        if data.teacher_processor is not None:
            pieces = {"student's pieces": len(data.processor), "teacher's pieces": len(data.teacher_processor)}
        startup(
            Console(),
            teacher_name=(" + ".join(setup.models) + ", cached" * own.cache) if setup.models else None,
            teacher_size=sum(_size(model) for model in setup.models.values()),
            student_name=own.student.get("_target_", "student").rpartition(".")[-1],
            student_size=_size(modules[name].student),
            objective=modules[name].objective,
            data={"name": name or own.data_name, **data.sizes, **pieces},
            trainer={
                "epochs": trainer.max_epochs,
                "batch": own.data.get("batch_size"),
                "precision": trainer.precision,
                "devices": trainer.world_size,
            },
        )


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
