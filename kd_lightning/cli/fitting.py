"""Fitting one model: the same few steps for the teacher, the student alone and the distilled student."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from hydra.utils import instantiate
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import CombinedLoader
from lightning_utilities.core.apply_func import apply_to_collection
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from kd_lightning.cli.build import build_student
from kd_lightning.cli.judging import task_metrics
from kd_lightning.cli.positions import check_positions
from kd_lightning.objective import Objective
from kd_lightning.training.module import DistillationModule
from kd_lightning.training.multi_task import MultiTaskModule
from kd_lightning.training.optim import build_optimizer, parameter_groups

Trained: TypeAlias = DistillationModule | MultiTaskModule


def build_module(
    cfg: DictConfig, student: nn.Module, teacher: Any, objective: Objective, data: Any
) -> DistillationModule:
    """Put models, objective, optimizer, scheduler and metrics of one task together."""
    check_positions(student, data, "student")
    metrics = task_metrics(cfg, data)
    return DistillationModule(student, teacher, objective, **_recipe(cfg), metrics=metrics, compile=cfg.compile)


def join(cfg: DictConfig, modules: Mapping[str, DistillationModule]) -> Trained:
    """Return the module of a run: the one task's own, or several with one body."""
    return MultiTaskModule(modules, **_recipe(cfg)) if len(modules) > 1 else next(iter(modules.values()))


def _recipe(cfg: DictConfig) -> dict[str, Any]:
    scheduler = instantiate(cfg.scheduler) if cfg.scheduler is not None else None
    return {"optimizer": instantiate(cfg.optimizer), "scheduler": scheduler}


def rehearse(cfg: DictConfig, data: Any, teacher: Any, first: nn.Module | None = None) -> None:
    """Compare a new student with its teacher on two rows, before anything is trained: what does not fit fails now.

    Args:
        cfg: one task's configuration.
        data: its data, with its tokenizers.
        teacher: a model or a source; students are made like the model, or like the first of the source's.
        first: of several tasks the first one's teacher, like which all students are made.

    """
    uncompiled: Any = OmegaConf.merge(cfg, {"compile": False})
    models = [teacher] if isinstance(teacher, nn.Module) else list(teacher.models())
    for model in models:
        check_positions(model, data, "teacher")
    like = models[0]
    module = build_module(uncompiled, build_student(cfg, like, data, first), teacher, instantiate(cfg.objective), data)
    build_optimizer(instantiate(cfg.optimizer), parameter_groups(module.student, module.objective))
    data.setup("fit")
    for batch, _, _ in CombinedLoader(data.val_dataloader(), "sequential"):
        with torch.no_grad():
            module.compare(apply_to_collection(batch, Tensor, lambda x: x[:2]))
        break


def fit(module: Trained, data: Any, trainer: Trainer, folder: Path) -> Trained:
    """Train from the last checkpoint in `folder`, or from the start, and return the module with its best weights."""
    last = folder / "checkpoints" / "last.ckpt"
    trainer.fit(module, datamodule=data, ckpt_path=str(last) if last.is_file() else None)
    best = folder / "checkpoints" / "best.ckpt"
    if best.is_file():
        module.load_state_dict(torch.load(best, map_location="cpu", weights_only=True)["state_dict"])
    return module
