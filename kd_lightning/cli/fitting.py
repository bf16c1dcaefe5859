"""Fitting one model: the same few steps for the teacher, the student alone and the distilled student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import CombinedLoader
from lightning_utilities.core.apply_func import apply_to_collection
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from kd_lightning.cli.build import build_student
from kd_lightning.module import DistillationModule
from kd_lightning.objective import Objective
from kd_lightning.optim import build_optimizer, parameter_groups


def build_module(cfg: DictConfig, student: nn.Module, teacher: Any, objective: Objective) -> DistillationModule:
    """Put models, objective, optimizer, scheduler and metrics of a configuration together."""
    return DistillationModule(
        student,
        teacher,
        objective,
        optimizer=instantiate(cfg.optimizer),
        scheduler=instantiate(cfg.scheduler) if cfg.scheduler is not None else None,
        metrics={name: instantiate(node) for name, node in cfg.task.metrics.items()},
        compile=cfg.compile,
    )


def rehearse(cfg: DictConfig, data: Any, teacher: nn.Module) -> None:
    """Compare a new student with a teacher on two rows, before anything is trained: what does not fit fails now."""
    uncompiled: Any = OmegaConf.merge(cfg, {"compile": False})
    module = build_module(uncompiled, build_student(cfg, teacher, data), teacher, instantiate(cfg.objective))
    build_optimizer(instantiate(cfg.optimizer), parameter_groups(module.student, module.objective))
    data.setup("fit")
    for batch, _, _ in CombinedLoader(data.val_dataloader(), "sequential"):
        with torch.no_grad():
            module.compare(apply_to_collection(batch, Tensor, lambda x: x[:2]))
        break


def fit(module: DistillationModule, data: Any, trainer: Trainer, folder: Path) -> DistillationModule:
    """Train from the last checkpoint in `folder`, or from the start, and return the module with its best weights."""
    last = folder / "checkpoints" / "last.ckpt"
    trainer.fit(module, datamodule=data, ckpt_path=str(last) if last.is_file() else None)
    best = folder / "checkpoints" / "best.ckpt"
    if best.is_file():
        module.load_state_dict(torch.load(best, map_location="cpu", weights_only=True)["state_dict"])
    return module


def score(module: DistillationModule, data: Any, trainer: Trainer) -> dict[str, float]:
    """Return the metrics on the validation split by their bare names."""
    results = trainer.validate(module, datamodule=data, verbose=False)
    return {name.removeprefix("val/"): float(value) for name, value in results[0].items()} if results else {}
