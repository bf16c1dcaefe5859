"""The stages of a run after the teacher: `alone` and `student`, each in a folder of its own."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from hydra.utils import instantiate
from lightning.pytorch import seed_everything
from omegaconf import DictConfig
from rich.console import Console
from torch import nn

from kd_lightning.cli.build import build_student, build_trainer, hard_only, on_one_device
from kd_lightning.cli.caching import fill_cache
from kd_lightning.cli.fitting import build_module, fit, join, rehearse
from kd_lightning.cli.judging import Judge, score, task_metrics
from kd_lightning.cli.lessons import Lesson, load_lessons
from kd_lightning.cli.reports.latency import latency_ms
from kd_lightning.cli.reports.summary import startup
from kd_lightning.cli.tasks import ALL
from kd_lightning.cli.unlabelled import labels_only
from kd_lightning.core.files import write_json
from kd_lightning.data import MultiTask
from kd_lightning.models.export import export
from kd_lightning.models.share_body import share_body
from kd_lightning.teachers import CachedTeacher, TeacherSource
from kd_lightning.training.module import DistillationModule
from kd_lightning.training.multi_task import MultiTaskModule

Stage: TypeAlias = Literal["teacher", "cache", "alone", "student"]


def stage_folder(run_dir: Path, stage: Stage) -> Path:
    """Return where a stage keeps checkpoints, curves and its result."""
    return run_dir / "stages" / stage


def result_of(run_dir: Path, stage: Stage) -> dict[str, Any] | None:
    """Return what a finished stage found, or None while it is not finished."""
    path = stage_folder(run_dir, stage) / "result.json"
    return json.loads(path.read_text()) if path.is_file() else None


def run_stage(cfg: DictConfig, run_dir: Path, stage: Stage) -> None:
    """Run a stage in this process (one of several, under DDP) and write its result last."""
    start = time.perf_counter()
    folder = stage_folder(run_dir, stage)
    seed_everything(cfg.seed, verbose=False)
    cfg = labels_only(cfg) if stage == "alone" else cfg
    lessons = load_lessons(cfg, run_dir)
    if stage == "teacher":
        result = _judge_teachers(cfg, lessons, folder)
    elif stage == "cache":
        result = _fill_caches(cfg, lessons, folder)
    else:
        result = _train(cfg, run_dir, lessons, stage)
    if int(os.environ.get("RANK", 0)) == 0:
        write_json(folder / "result.json", {"seconds": round(time.perf_counter() - start, 2)} | result)


def _judge_teachers(cfg: DictConfig, lessons: Mapping[str, Lesson], folder: Path) -> dict[str, Any]:
    """Score the teachers as they will teach, in their own precision; first see that student and objective fit them."""
    scores: dict[str, dict[str, float]] = {}
    first = _first_model(lessons)
    main: dict[str, tuple[str, float]] = {}
    for task, lesson in lessons.items():
        teacher = lesson.source()
        assert teacher is not None, "a run without a teacher has no such stage"
        rehearse(lesson.cfg, lesson.data, teacher, first)
        judge = Judge(teacher, task_metrics(lesson.cfg, lesson.data))
        home = folder / task
        main[task] = lesson.cfg.task.metric, judge.metrics.best.get(lesson.cfg.task.metric, 1.0)
        scores[task] = score(on_one_device(cfg), judge, lesson.data, home, _recorders({"": lesson}))
    models = [model for lesson in lessons.values() for model in lesson.models.values()]
    one_task = next(iter(lessons.values())).models.values()
    return {
        "metrics": _joined(scores, main),
        "parameters": sum(_size(model) for model in models),
        "latency_ms": _one_after_the_other([latency_ms(model) for model in one_task]),
    }


def _fill_caches(cfg: DictConfig, lessons: Mapping[str, Lesson], folder: Path) -> dict[str, Any]:
    """Put what the teachers say of the training rows on disk, and return where and in what time."""
    module = _build(cfg, lessons, alone=False)
    several = len(lessons) > 1
    filled = {
        task: fill_cache(lessons[task], own.objective, folder, several) for task, own in modules_of(module).items()
    }
    seconds = sum(spent for _, spent in filled.values())
    folders = {task: str(path) for task, (path, _) in filled.items() if path is not None}
    return {"folders": folders, "seconds": round(seconds, 2)}


def _one_after_the_other(latencies: list[float | None]) -> float | None:
    known = [latency for latency in latencies if latency is not None]
    return round(sum(known), 3) if len(known) == len(latencies) else None


def _joined(scores: Mapping[str, Mapping[str, float]], main: Mapping[str, tuple[str, float]]) -> dict[str, float]:
    """Return one task's metrics as they are, several tasks' as `task/metric`, with the mean of their main ones.

    Args:
        scores: by task and metric.
        main: each task's main metric, and what its best score is.

    """
    if len(scores) == 1:
        return dict(next(iter(scores.values())))
    flat = {f"{task}/{name}": value for task, own in scores.items() for name, value in own.items()}
    return {ALL: sum(scores[task][metric] / best for task, (metric, best) in main.items()) / len(scores), **flat}


def _train(cfg: DictConfig, run_dir: Path, lessons: Mapping[str, Lesson], stage: Stage) -> dict[str, Any]:
    caches = (result_of(run_dir, "cache") or {}).get("folders", {}) if cfg.cache else {}
    module = _build(cfg, lessons, alone=stage == "alone", caches=caches)
    modules = modules_of(module)
    data = _data(cfg, lessons)
    folder = stage_folder(run_dir, stage)
    trainer = build_trainer(cfg, folder)
    if trainer.is_global_zero and stage == "student":
        for task, lesson in lessons.items():
            _announce(lesson, modules[task], trainer, task)
    fit(module, data, trainer, folder)
    home = run_dir if stage == "student" else folder
    metrics = score(cfg, module, data, home, _recorders(lessons))
    if trainer.is_global_zero:
        for task, own in modules.items():
            export(own, home / "student" / task, tokenizer=lessons[task].data.processor)
    students = nn.ModuleList([own.student for own in modules.values()])
    return {"metrics": metrics, "parameters": _size(students), "latency_ms": latency_ms(students[0])}


def _recorders(lessons: Mapping[str, Lesson]) -> dict[str, Any]:
    """Return what notes the predictions of each task, in the data set's own format."""
    return {task: lesson.data.recorder() for task, lesson in lessons.items()}


def modules_of(module: DistillationModule | MultiTaskModule) -> dict[str, DistillationModule]:
    """Return the tasks' modules by name, and one task's own without a name."""
    return module.named_tasks() if isinstance(module, MultiTaskModule) else {"": module}


def _build(
    cfg: DictConfig, lessons: Mapping[str, Lesson], alone: bool, caches: Mapping[str, str] | None = None
) -> DistillationModule | MultiTaskModule:
    """Build the students, the later ones on the first one's body, and put them together with what teaches them."""
    modules: dict[str, DistillationModule] = {}
    for task, lesson in lessons.items():
        student = build_student(lesson.cfg, lesson.model, lesson.data, _first_model(lessons) if modules else None)
        if modules:
            student = share_body(next(iter(modules.values())).student, student)
        teacher = None if alone else _teacher(lesson, (caches or {}).get(task))
        objective = hard_only(lesson.cfg) if teacher is None else instantiate(lesson.cfg.objective)
        modules[task] = build_module(lesson.cfg, student, teacher, objective, lesson.data)
    return join(cfg, modules)


def _teacher(lesson: Lesson, cache: str | None) -> TeacherSource | None:
    """Return what teaches: a cache or live models."""
    return CachedTeacher(cache) if cache else lesson.source(compile=lesson.cfg.teacher.compile)


def _first_model(lessons: Mapping[str, Lesson]) -> nn.Module | None:
    """Return of several tasks the first one's teacher: all students are made like it, for they share a body."""
    return next(iter(lessons.values())).model if len(lessons) > 1 else None


def _data(cfg: DictConfig, lessons: Mapping[str, Lesson]) -> Any:
    if len(lessons) == 1:
        return next(iter(lessons.values())).data
    return MultiTask({task: lesson.data for task, lesson in lessons.items()}, tau=cfg.tau, seed=cfg.seed)


def _announce(lesson: Lesson, module: DistillationModule, trainer: Any, task: str) -> None:
    """Print what is about to happen, before the first step."""
    cfg, data = lesson.cfg, lesson.data
    data.setup("fit")
    startup(
        Console(),
        teacher_name=(" + ".join(lesson.models) + ", cached" * bool(cfg.cache)) if lesson.models else None,
        teacher_size=sum(_size(model) for model in lesson.models.values()),
        student_name=cfg.student.get("_target_", "student").rpartition(".")[-1],
        student_size=_size(module.student),
        objective=module.objective,
        data={"name": task or cfg.data.get("name", "synthetic"), **data.sizes, **_pieces(data)},
        trainer={
            "epochs": trainer.max_epochs,
            "batch": cfg.data.batch_size,
            "precision": trainer.precision,
            "devices": trainer.world_size,
        },
    )


def _pieces(data: Any) -> dict[str, int]:
    """Return the sizes of both vocabularies where the student has its own."""
    theirs = data.teacher_processor
    return {"student's pieces": len(data.processor), "teacher's pieces": len(theirs)} if theirs is not None else {}


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
