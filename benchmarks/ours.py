"""Our side: the same recipe as a module, its step as a bare loop, and its cache."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import move_data_to_device
from torch.utils.data import DataLoader

import kd_lightning as kd
from benchmarks.models import Batch
from benchmarks.peers import precision_context
from benchmarks.setting import RATE, TEMPERATURE, Setting
from benchmarks.timing import Contender


def make_objective(pairs: Sequence[tuple[int, int]]) -> kd.Objective:
    """Return TextBrewer's recipe: soft labels without T², and MSE and MMD on each pair of layers."""
    soft = kd.compat.textbrewer.SoftCrossEntropy(TEMPERATURE)
    terms = {"logits": kd.Term(kd.Match("logits", "logits"), soft)}
    for s, t in pairs:
        own, target = f"hidden.{s}", f"hidden.{t}"
        terms[f"mse_{s}"] = kd.Term(kd.Match(own, target), kd.losses.HiddenMSE(), projection="linear")
        gram = kd.compat.textbrewer.NST()
        terms[f"mmd_{s}"] = kd.Term(kd.Match([own, own], [target, target]), gram)
    return kd.Objective(terms)


def make_module(setting: Setting, teacher: kd.TeacherSource) -> kd.DistillationModule:
    """Return the module for a setting, on its device."""
    module = kd.DistillationModule(
        setting.make_student(),
        teacher,
        make_objective(setting.pairs),
        optimizer=partial(torch.optim.AdamW, lr=RATE, fused=True),
        compile=setting.compile,
    )
    return module.to(setting.device)


def live_teacher(setting: Setting, precision: Any = "bfloat16") -> kd.LiveTeacher:
    """Return the teacher as it is used on every batch."""
    return kd.LiveTeacher(setting.make_teacher(), precision=precision, compile=setting.compile)


def build_cache(setting: Setting, batches: Sequence[Batch], folder: Path, addresses: Sequence[str]) -> Path:
    """Keep what the teacher says about the batches in a folder, and return it."""
    loader: Any = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    trainer = quiet_trainer(accelerator="cpu" if setting.device == "cpu" else "gpu")
    kd.TeacherCache.build(live_teacher(setting), loader, folder, list(addresses), trainer=trainer)
    return folder


def quiet_trainer(**options: Any) -> Trainer:
    """Return a Trainer on one device that writes and shows nothing."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return Trainer(devices=1, **dict.fromkeys(quiet, False) | options)


def distillation_step(
    module: kd.DistillationModule, device: str = "cpu", mixed: bool = False, optimizer: Any = None
) -> Contender:
    """Return one step as a bare loop: read the cache if there is one, move the batch, compare, learn.

    Args:
        module: trained.
        device: where.
        mixed: whether in `bf16-mixed`.
        optimizer: of all that is trained; None: the module's own, which with a schedule needs a Trainer.

    """
    optimizer, autocast = optimizer or module.configure_optimizers(), precision_context(device, mixed)

    def step(batch: Batch) -> None:
        moved = move(module.prepare(batch), device)
        with autocast():
            loss = module.compare(moved).total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def move(batch: Any, device: str) -> Any:
    """Move a batch as Lightning does."""
    return batch if device == "cpu" else move_data_to_device(batch, torch.device(device))
