"""Run by test_ddp.py as a script, once per rank: `two_ranks.py RANK WORLD FOLDER`; writes its results into FOLDER."""

from __future__ import annotations

import io
import os
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pyarrow as pa
import torch
from lightning.pytorch.strategies import DDPStrategy
from PIL import Image
from pyarrow import parquet
from torch import Tensor, distributed, nn
from toys import OfAUser, bert, mlp, pairs, ready, trainer, words

import kd_lightning as kd
from kd_lightning.core.errors import ConfigError

Result = dict[str, Any]
SPLIT = 3  # rows of the first rank, of four


class Tagger(nn.Module):
    def __init__(self, width: int, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.words = nn.Embedding(30, width)
        self.head = nn.Linear(width, 3)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.words(input_ids))}


def share(batch: dict[str, Tensor], rank: int, world: int) -> dict[str, Tensor]:
    """Return a rank's rows: three for the first, one for the second; all where there is one process."""
    if world == 1:
        return batch
    return {name: value[:SPLIT] if rank == 0 else value[SPLIT:] for name, value in batch.items()}


def fit(
    module: pl.LightningModule, batches: list[Any], folder: Path, world: int, unused: bool = False, **more: Any
) -> pl.Trainer:
    options: dict[str, Any] = {"devices": world, "use_distributed_sampler": False, "max_steps": len(batches)} | more
    if world > 1:
        options["strategy"] = DDPStrategy(process_group_backend="gloo", find_unused_parameters=unused)
    runner = trainer(folder, **options)
    runner.fit(module, ready(batches))
    return runner


def sentences(rank: int, world: int, folder: Path) -> Result:
    """All kinds of means over tokens, pairs of tokens and samples; projections start differently on each rank."""
    objective = kd.Objective(
        {
            "hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel()),
            "soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=2.0)),
            "hidden": kd.MatchScheme("hidden", kd.losses.HiddenMSE(), embeddings=True, projection="linear"),
            "attention": kd.Term(kd.Match("attention.1", "attention.2"), kd.losses.AttentionMSE(), weight=5.0),
        }
    )
    student, teacher = bert(2), bert(4, 24, seed=1)
    torch.manual_seed(rank)
    module = kd.DistillationModule(student, teacher, objective, partial(torch.optim.SGD, lr=0.1))
    runner = fit(module, [share(words(seed=i), rank, world) for i in range(3)], folder, world)
    reduced = [name for name, _ in runner.strategy.model.named_parameters()] if runner.strategy.model else []
    return {"state": module.state_dict(), "reduced": reduced, "teacher": teacher.state_dict()}


class Plain(nn.Module):
    """A network without batch statistics, whose ranks compute what one process does."""

    def __init__(self, width: int, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Conv2d(3, width, 3, 2, 1), nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.pool, self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(2 * width, 5)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.pool(self.second(self.first(pixel_values).relu()).relu()))


def relations(rank: int, world: int, folder: Path) -> Result:
    """Losses that relate samples, that train modules of their own, and that draw random numbers."""
    losses, logits = kd.losses, kd.Match("logits", "logits")
    maps, pooled = kd.Match(("first", "second"), ("first", "second")), kd.Match("pool", "pool")
    terms = {
        "hard": kd.Term(kd.Match("logits", "labels"), losses.HardLabel()),
        "at": kd.Term(maps, losses.AttentionTransfer(), weight=10.0),
        "nst": kd.Term(maps, losses.NSTMMD(), weight=10.0),
        "vid": kd.Term(maps, losses.VID()),
        "sp": kd.Term(maps, losses.SimilarityPreserving(), weight=10.0),
        "distance": kd.Term(pooled, losses.RKDDistance(), weight=5.0),
        "angle": kd.Term(pooled, losses.RKDAngle(), weight=5.0),
        "pkt": kd.Term(pooled, losses.PKT(), weight=100.0),
        "cc": kd.Term(pooled, losses.CorrelationCongruence(), weight=5.0),
        "irg": kd.Term(kd.Match(*[("first", "second", "pool", "logits")] * 2), losses.IRG()),
        "mgd": kd.Term(kd.Match("second", "second"), losses.MaskedGenerative(), weight=1e-2),
        "dist": kd.Term(logits, losses.DIST()),
        "dkd": kd.Term(logits, losses.DKD(beta=2.0)),
        "wsld": kd.Term(logits, losses.WSLD(temperature=2.0)),
    }
    optimizer = partial(torch.optim.SGD, lr=0.05)
    student, teacher = Plain(4), Plain(6, seed=1)
    torch.manual_seed(rank)
    module = kd.DistillationModule(student, teacher, kd.Objective(terms), optimizer)
    generator, batches = torch.Generator().manual_seed(0), []
    for step in range(3):
        images = torch.randn(4, 3, 8, 8, generator=generator)
        batch = {"pixel_values": images, "labels": torch.tensor([0, 3, 1, 2]), "sample_id": 4 * step + torch.arange(4)}
        batches.append(share(batch, rank, world))
    fit(module, batches, folder, world)
    return {"state": module.state_dict()}


class Seed(pl.Callback):
    """Lets projections start alike, whatever has drawn random numbers before."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        torch.manual_seed(0)


def callback(rank: int, world: int, folder: Path) -> Result:
    """The callback on a user's module, whose own loss, a mean over each rank's rows, has weight 0 here."""
    objective = kd.Objective(
        {
            "soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=2.0)),
            "hidden": kd.MatchScheme("hidden", kd.losses.HiddenMSE(), projection="linear"),
        }
    )
    torch.manual_seed(rank)
    added = kd.DistillationCallback(bert(4, 24, seed=1), objective, task_weight=0.0)
    module = OfAUser()
    fit(module, [share(words(seed=i), rank, world) for i in range(3)], folder, world, callbacks=[Seed(), added])
    return {"state": module.state_dict() | objective.state_dict(prefix="objective.")}


def tasks(rank: int, world: int, folder: Path) -> Result:
    """Two tasks with one body, in turn; `setup` raises without `find_unused_parameters`."""

    def build() -> kd.MultiTaskModule:
        torch.manual_seed(rank)
        objective = kd.Objective(
            {
                "soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=2.0)),
                "hidden": kd.MatchScheme("hidden", kd.losses.HiddenMSE(), projection="linear"),
            }
        )
        three = bert(2)
        two = kd.students.share_body(three, bert(2, labels=2))
        pairs = {"three": (three, bert(4, 24, seed=1)), "two": (two, bert(2, 32, seed=2, labels=2))}
        modules = {name: kd.DistillationModule(*pair, objective) for name, pair in pairs.items()}
        return kd.MultiTaskModule(modules, partial(torch.optim.SGD, lr=0.1, momentum=0.9))

    order = ["three", "two", "two", "three"]
    batches = [{**share(words(seed=i), rank, world), "task": task} for i, task in enumerate(order)]
    module = build()
    fit(module, batches, folder, world, unused=True)
    try:
        fit(build(), batches, folder, world)
        refused = "no error"
    except ConfigError as error:
        refused = str(error)
    return {"state": module.state_dict(), "refused": refused}


def learned_maps(rank: int, world: int, folder: Path) -> Result:
    """Learned layer maps: their costs are those of the whole batch on every rank."""
    objective = kd.Objective(
        {
            "hidden": kd.MatchScheme(
                "hidden", kd.losses.EMD(kd.losses.HiddenMSE(), temperature=1.0), "emd", projection="linear"
            ),
            "attention": kd.MatchScheme("attention", kd.losses.EMD(kd.losses.AttentionMSE(), temperature=4.0), "emd"),
            "soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=2.0)),
        }
    )
    torch.manual_seed(rank)
    module = kd.DistillationModule(bert(2), bert(4, 24, seed=1), objective, partial(torch.optim.SGD, lr=0.1))
    fit(module, [share(words(seed=i), rank, world) for i in range(3)], folder, world)
    flows = {f"{name}.flow": term.loss.flow for name, term in list(module.objective.named_terms().items())[:2]}
    return {"state": module.state_dict() | flows}


def tags(rank: int, world: int, folder: Path) -> Result:
    """Token labels, of which the second rank has none at all in the second step."""
    objective = kd.Objective(
        {
            "hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel()),
            "soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(), weight=2.0),
        }
    )
    batches = []
    for i in range(3):
        batch = words(seed=i)
        labels = batch["input_ids"] % 3
        labels[batch["attention_mask"] == 0] = -100
        if i == 1:
            labels[SPLIT:] = -100
        batches.append(share(batch | {"labels": labels}, rank, world))
    module = kd.DistillationModule(Tagger(4), Tagger(8, 1), objective, partial(torch.optim.SGD, lr=0.5))
    fit(module, batches, folder, world)
    return {"state": module.state_dict()}


def no_labels(rank: int, world: int, folder: Path) -> Result:
    """No rank has any label: the loss is zero, and no weight changes."""
    objective = kd.Objective({"hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel())})
    batch = words()
    batch["labels"] = torch.full_like(batch["input_ids"], -100)
    module = kd.DistillationModule(Tagger(4), None, objective, partial(torch.optim.SGD, lr=0.5))
    runner = fit(module, [share(batch, rank, world)], folder, world)
    return {"state": module.state_dict(), "loss": runner.callback_metrics["train/loss"]}


def different_teachers(rank: int, world: int, folder: Path) -> Result:
    """Different teachers on the two ranks: other weights, then other buffers only."""
    norm = nn.Sequential(mlp(7), nn.BatchNorm1d(3))
    norm[1].running_mean += rank
    return {name: error_of(teacher, folder, world) for name, teacher in (("weights", mlp(7, rank)), ("buffers", norm))}


def error_of(teacher: nn.Module, folder: Path, world: int) -> str:
    objective = kd.Objective({"a": kd.Term(kd.Match("logits", "logits"), nn.MSELoss())})
    try:
        fit(kd.DistillationModule(mlp(5), teacher, objective), [pairs()], folder, world)
    except ConfigError as error:
        return str(error)
    return "no error"


def images(rank: int, world: int, folder: Path) -> Result:
    """Cropped, flipped and mixed images, read by the data module: half as many a process where there are two."""
    file, random = folder / f"images{rank}of{world}.parquet", np.random.default_rng(0)
    cells = []
    for _ in range(24):
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
        cells.append(buffer.getvalue())
    parquet.write_table(pa.table({"image": cells, "label": [row % 3 for row in range(24)]}), file)
    data = kd.data.ImageClassification(
        "images",
        path=file,
        validation=file,  # so that an even number of rows is left to train on, and none comes twice
        augment=[kd.data.RandomCrop(2), kd.data.Flip()],
        mix=kd.data.Mixup(0.4),
        batch_size=8 // world,
        cache_dir=folder / f"cache{rank}of{world}",
    )
    data.setup()
    torch.manual_seed(0)
    models = [
        nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36 * width, 3)) for width in (2, 4)
    ]
    objective = kd.Objective(
        {
            "hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel()),
            "soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=2.0)),
        }
    )
    module = kd.DistillationModule(*models, objective, partial(torch.optim.SGD, lr=0.1, momentum=0.9))
    options: dict[str, Any] = {"devices": world, "use_distributed_sampler": False, "max_epochs": 2}
    if world > 1:
        options["strategy"] = DDPStrategy(process_group_backend="gloo")
    trainer(folder, limit_val_batches=0, **options).fit(module, data.train_dataloader())
    return {"state": module.state_dict()}


def labels_and_logits(weight: kd.sample_weights.SampleWeight | None = None) -> kd.Objective:
    return kd.Objective(
        {
            "hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel()),
            "soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=2.0), sample_weight=weight),
        }
    )


def strategies(rank: int, world: int, folder: Path) -> Result:
    """Layers of the teacher in the student's place: the same draws on both ranks, where DDP looks for unused ones."""

    def build() -> kd.DistillationModule:
        optimizer = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
        rate = kd.strategies.Theseus(kd.strategies.Replacing(0.3, 0.9))
        return kd.DistillationModule(bert(2), bert(4, seed=1), labels_and_logits(), optimizer, strategy=rate)

    batches = [share(words(seed=i), rank, world) for i in range(8)]
    module = build()
    fit(module, batches, folder, world, unused=True)
    try:
        fit(build(), batches, folder, world)
        refused = "no error"
    except ConfigError as error:
        refused = str(error)
    return {"state": module.state_dict(), "refused": refused}


def weighted(rank: int, world: int, folder: Path) -> Result:
    """Rows that are weighted by both models, of unequal numbers on the ranks."""
    objective = labels_and_logits(kd.sample_weights.Entropy(hard=True))
    module = kd.DistillationModule(bert(2), bert(4, 24, seed=1), objective, partial(torch.optim.SGD, lr=0.1))
    fit(module, [share(words(seed=i), rank, world) for i in range(3)], folder, world)
    return {"state": module.state_dict()}


def average(rank: int, world: int, folder: Path) -> Result:
    """A student that its own moving average teaches."""
    teacher = kd.EMATeacher(0.9)
    module = kd.DistillationModule(bert(2), teacher, labels_and_logits(), partial(torch.optim.SGD, lr=0.1))
    fit(module, [share(words(seed=i), rank, world) for i in range(3)], folder, world)
    return {"state": module.state_dict() | {f"average.{k}": v for k, v in teacher.model.state_dict().items()}}


def exits(rank: int, world: int, folder: Path) -> Result:
    """Branches that the last classifier teaches, and labels beside them."""
    torch.manual_seed(0)
    student = kd.models.early_exit(bert(3).config, exit_width=8)
    hard = kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel())
    objective = kd.Objective({"hard": hard, "exits": kd.ExitScheme(kd.losses.SoftTarget())})
    module = kd.DistillationModule(student, kd.SelfTeacher(), objective, partial(torch.optim.SGD, lr=0.1))
    fit(module, [share(words(seed=i), rank, world) for i in range(3)], folder, world)
    return {"state": module.state_dict()}


def mutual(rank: int, world: int, folder: Path) -> Result:
    """Two students that teach each other, by earlier copies."""
    students = {"a": bert(2), "b": bert(3, 24, seed=1)}
    module = kd.MutualModule(students, labels_and_logits(), partial(torch.optim.SGD, lr=0.1), every=2)
    fit(module, [share(words(seed=i), rank, world) for i in range(4)], folder, world, gradient_clip_val=0.5)
    return {"state": module.state_dict()}


TRAINED = (
    sentences,
    callback,
    learned_maps,
    tasks,
    tags,
    images,
    relations,
    strategies,
    weighted,
    average,
    mutual,
    exits,
)
CASES = (*TRAINED, no_labels, different_teachers)


def environment(rank: int, world: int) -> dict[str, str]:
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0}
    return {name: str(value) for name, value in own.items()} | {"TORCHELASTIC_RUN_ID": "t", "MASTER_ADDR": "localhost"}


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    if world > 1:
        os.environ.update(environment(rank, world))
        file = f"file://{folder}/rendezvous"
        distributed.init_process_group("gloo", file, timedelta(seconds=600), world_size=world, rank=rank)
    try:
        torch.save({case.__name__: case(rank, world, folder) for case in CASES}, folder / f"{rank}of{world}.pt")
    finally:
        if world > 1:
            distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
