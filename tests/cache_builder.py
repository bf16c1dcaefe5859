"""Run by teachers/cache/test_build.py as a script: `cache_builder.py CACHE LOG KIND RANK WORLD`.

Builds a cache of ten batches, a shard each, and leaves in LOG how many rows each of the teacher's calls had. KIND:
`killed` dies by SIGKILL in the sixth call of a batch; `slow` takes its time; `train` builds and then trains.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, distributed, nn
from toys import bert, trainer
from two_ranks import environment

import kd_lightning as kd
from kd_lightning.data import Loader, Padding, TokenRows, TrainBatches
from kd_lightning.teachers.cache import shard

BATCHES, SIZE, ASKED, KILL = 10, 4, ["hidden.1", "hidden.2", "logits"], 7
"""The second call tells how long it takes."""


class Watched(nn.Module):
    """Counts its calls, and dies in one of them."""

    def __init__(self, kind: str, log: Path) -> None:
        super().__init__()
        self.bert = bert(2, 24, seed=1)
        self.config = self.bert.config
        self.kind, self.log, self.calls = kind, log, []

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        self.calls.append(len(input_ids))
        self.log.write_text(json.dumps(self.calls))
        if self.kind == "killed" and len(self.calls) == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "slow":
            time.sleep(0.1)
        return self.bert(input_ids=input_ids, attention_mask=attention_mask)


def loader() -> Loader:
    random, count = np.random.default_rng(0), BATCHES * SIZE - 1
    offsets = np.concatenate([[0], np.cumsum(random.integers(2, 9, count))])
    rows = TokenRows(
        {"input_ids": random.integers(1, 30, offsets[-1])}, offsets, {"labels": random.integers(0, 3, count)}
    )
    return Loader(rows, TrainBatches(rows.lengths, batch_size=SIZE), Padding({"input_ids": 0}))


def options(world: int) -> dict[str, Any]:
    if world == 1:
        return {}
    return {"devices": world, "strategy": DDPStrategy(process_group_backend="gloo")}


def train(teacher: Any, folder: Path, world: int) -> dict[str, Tensor]:
    objective = kd.Objective(
        {
            "soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=2.0)),
            "hidden": kd.MatchScheme("hidden", kd.losses.HiddenMSE(), projection="linear"),
        }
    )
    torch.manual_seed(0)
    module = kd.DistillationModule(bert(2), teacher, objective, partial(torch.optim.SGD, lr=0.1))
    trainer(folder, max_epochs=1, **options(world)).fit(module, loader())
    return module.state_dict()


def main(cache: Path, log: Path, kind: str, world: int) -> None:
    shard.SHARD_BYTES = 1
    model = Watched(kind, log)
    made = trainer(cache.parent, **options(world))
    built = kd.TeacherCache.build(model, loader(), cache, ASKED, dtype="fp32", trainer=made)
    assert len(built) == BATCHES * SIZE - 1
    if kind == "train":
        states = {"cached": train(kd.CachedTeacher(cache), cache.parent, world)}
        states["live"] = train(Watched("live", log.with_suffix(".live")), cache.parent, world)
        torch.save(states, log.with_suffix(".pt"))


def start(cache: Path, log: Path, kind: str, rank: int, world: int) -> None:
    torch.set_num_threads(1)
    if world > 1:
        os.environ.update(environment(rank, world))
        file = f"file://{cache}.rendezvous"
        distributed.init_process_group("gloo", file, timedelta(seconds=600), world_size=world, rank=rank)
    try:
        main(cache, log, kind, world)
    finally:
        if world > 1:
            distributed.destroy_process_group()


if __name__ == "__main__":
    start(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
