"""The stages of a run after the teacher: `alone` and `student`, each in a folder of its own."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Literal, TypeAlias

from hydra.utils import instantiate
from lightning.pytorch import seed_everything
from omegaconf import DictConfig
from rich.console import Console
from torch import nn

from kd_lightning.cli.build import build_data, build_student, build_trainer, hard_only, on_one_device, scoring_trainer
from kd_lightning.cli.files import write_json
from kd_lightning.cli.fitting import build_module, fit, rehearse, score
from kd_lightning.cli.reports.latency import latency_ms
from kd_lightning.cli.reports.summary import startup
from kd_lightning.cli.teacher import check_labels, load_teacher
from kd_lightning.export import export
from kd_lightning.teachers import LiveTeacher

Stage: TypeAlias = Literal["teacher", "alone", "student"]


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
    teacher_dir = Path((run_dir / "teacher.txt").read_text())
    if stage == "teacher":
        result = _judge_teacher(cfg, teacher_dir, folder)
    else:
        result = _train(cfg, run_dir, teacher_dir, stage)
    if int(os.environ.get("RANK", 0)) == 0:
        write_json(folder / "result.json", result | {"seconds": round(time.perf_counter() - start, 2)})


def _judge_teacher(cfg: DictConfig, teacher_dir: Path, folder: Path) -> dict[str, Any]:
    """Score the teacher as it will teach: in its own precision; first see that student and objective fit it."""
    model, data = _teacher_and_data(cfg, teacher_dir)
    rehearse(cfg, data, model)
    model = LiveTeacher(model, precision=cfg.teacher.precision).model.requires_grad_(True)  # as its own training had it
    module = build_module(cfg, model, None, hard_only(cfg))
    return {"metrics": score(module, data, scoring_trainer(on_one_device(cfg), folder)), **_facts(model)}


def _train(cfg: DictConfig, run_dir: Path, teacher_dir: Path, stage: Stage) -> dict[str, Any]:
    model, data = _teacher_and_data(cfg, teacher_dir)
    student = build_student(cfg, model, data)
    if stage == "alone":
        teacher, objective = None, hard_only(cfg)
    else:
        teacher = LiveTeacher(model, precision=cfg.teacher.precision, compile=cfg.teacher.compile)
        objective = instantiate(cfg.objective)
    module = build_module(cfg, student, teacher, objective)
    folder = stage_folder(run_dir, stage)
    trainer = build_trainer(cfg, folder)
    if trainer.is_global_zero and stage == "student":
        _announce(cfg, module, data, trainer, model)
    fit(module, data, trainer, folder)
    metrics = score(module, data, scoring_trainer(cfg, folder))
    if trainer.is_global_zero:
        export(module, (run_dir if stage == "student" else folder) / "student", tokenizer=data.tokenizer)
    return {"metrics": metrics, **_facts(student)}


def _teacher_and_data(cfg: DictConfig, teacher_dir: Path) -> tuple[Any, Any]:
    model, tokenizer = load_teacher(teacher_dir)
    data = build_data(cfg, tokenizer)
    check_labels(model, data.num_labels, teacher_dir)
    return model, data


def _announce(cfg: DictConfig, module: Any, data: Any, trainer: Any, teacher: nn.Module) -> None:
    """Print what is about to happen, before the first step."""
    data.setup("fit")
    startup(
        Console(),
        teacher_name=cfg.teacher.name,
        teacher_size=_size(teacher),
        student_name=cfg.student.get("_target_", "student").rpartition(".")[-1],
        student_size=_size(module.student),
        objective=module.objective,
        data={"name": cfg.data.get("name", "synthetic"), **data.sizes},
        trainer={
            "epochs": trainer.max_epochs,
            "batch": cfg.data.batch_size,
            "precision": trainer.precision,
            "devices": trainer.world_size,
        },
    )


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _facts(model: Any) -> dict[str, Any]:
    return {"parameters": _size(model), "latency_ms": latency_ms(model)}
