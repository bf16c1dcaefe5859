"""Run by test_resume.py as a script: `resumable.py FOLDER KIND WORKERS RANK WORLD`, KIND whole, killed or resumed.

A run of two epochs of nine batches that saves every fourth step; `killed` dies by SIGKILL in the second epoch, at
step 14, two steps after the last checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed
from toys import Spy, bert, trainer
from two_ranks import environment

import kd_lightning as kd
from kd_lightning.data import Loader, Padding, TokenRows, TrainBatches
from kd_lightning.training.callbacks.step_seed import StepSeed
from kd_lightning.training.optim import linear_warmup

STEPS, SAVE, KILL = 9, 4, 14


def loader(workers: int, world: int) -> Loader:
    random = np.random.default_rng(0)
    rows = STEPS * 4 * world - 1
    offsets = np.concatenate([[0], np.cumsum(random.integers(2, 9, rows))])
    tokens = TokenRows(
        {"input_ids": random.integers(1, 30, offsets[-1])}, offsets, {"labels": random.integers(0, 3, rows)}
    )
    options = {"num_workers": workers, "persistent_workers": workers > 0}
    return Loader(tokens, TrainBatches(tokens.lengths, batch_size=4), Padding({"input_ids": 0}), **options)


def module(rank: int) -> kd.DistillationModule:
    soft = kd.losses.SoftTarget(
        2.0, temperature_schedule=lambda x: 2.0 - x, sample_temperature=kd.schedules.FLSW(beta=0.5)
    )
    objective = kd.Objective(
        {
            "hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel(), schedule=kd.schedules.LinearGrowth()),
            "soft": kd.Term(kd.Match("logits", "logits"), soft, schedule=kd.schedules.Cosine()),
            "hidden": kd.MatchScheme("hidden", kd.losses.HiddenMSE(), projection="linear", projection_lr=0.01),
            "map": kd.MatchScheme("hidden", kd.losses.HiddenMSE(), layers="emd", projection="linear"),
        }
    )
    student, teacher = bert(2, dropout=0.2), bert(4, 24, seed=1, dropout=0.2)
    torch.manual_seed(rank)
    optimizer = partial(torch.optim.AdamW, lr=0.005)
    return kd.DistillationModule(student, teacher, objective, optimizer, partial(linear_warmup, warmup=0.2))


def die(runner: Any, _: Any) -> None:
    if runner.global_step == KILL:
        os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, kind: str, workers: int, rank: int, world: int) -> None:
    save = ModelCheckpoint(folder, save_last=True, every_n_train_steps=SAVE, save_top_k=0)
    final: dict[str, Any] = {}
    look = Spy(die if kind == "killed" else lambda runner, _: final.update(runner.optimizers[0].state_dict()))
    options: dict[str, Any] = {"devices": world, "max_epochs": 2, "gradient_clip_val": 1.0}
    if world > 1:
        options["strategy"] = DDPStrategy(process_group_backend="gloo")
    runner = trainer(folder, callbacks=[StepSeed(3), save, look], enable_checkpointing=True, **options)
    made = module(rank)
    torch.rand(7 if kind == "resumed" else 1)  # noise from elsewhere must not matter
    runner.fit(made, loader(workers, world), ckpt_path=folder / "last.ckpt" if kind == "resumed" else None)
    result = {"weights": made.state_dict(), "optimizer": final, "steps": runner.global_step}
    torch.save(result, folder / f"{kind}{rank}.pt")


def start(folder: Path, kind: str, workers: int, rank: int, world: int) -> None:
    torch.set_num_threads(1)
    if world > 1:
        os.environ.update(environment(rank, world))
        file = f"file://{folder}/{kind}"
        distributed.init_process_group("gloo", file, timedelta(seconds=600), world_size=world, rank=rank)
    try:
        main(folder, kind, workers, rank, world)
    finally:
        if world > 1:
            distributed.destroy_process_group()


if __name__ == "__main__":
    start(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
