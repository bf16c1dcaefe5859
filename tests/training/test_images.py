"""Training on images that change in every view: resumed in mid-epoch, the run ends bit-equal."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from pyarrow import parquet
from torch import nn

import kd_lightning as kd
from kd_lightning.objective.projections import OrthogonalLinear
from kd_lightning.training.callbacks import StepSeed

QUIET: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
    "num_sanity_val_steps": 0,
}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    random, cells = np.random.default_rng(0), []
    for _ in range(40):
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
        cells.append(buffer.getvalue())
    parquet.write_table(pa.table({"image": cells, "label": [i % 2 for i in range(40)]}), tmp_path / "images.parquet")
    return tmp_path / "images.parquet"


def data_of(file: Path, mix: Any, views: int | None = None) -> kd.data.ImageClassification:
    augment = [kd.data.RandomCrop(2), kd.data.Flip()]
    return kd.data.ImageClassification(
        "images", path=file, augment=augment, mix=mix, views=views, batch_size=6, cache_dir=file.parent / "cache"
    )


def network(seed: int, width: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(width, 2))


def module(teacher: Any, **terms: kd.Term) -> kd.DistillationModule:
    terms |= {
        "hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel()),
        "logits": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=4.0)),
    }
    optimizer = partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True)
    return kd.DistillationModule(network(1, 4), teacher, kd.Objective(terms), optimizer)


def weights(fitted: kd.DistillationModule) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in fitted.state_dict().items()}


class Killed(Exception):
    pass


class Kill(Callback):
    """Ends a training after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise Killed


def with_modules() -> dict[str, kd.Term]:
    """Losses that train modules of their own, draw random numbers, or follow a schedule."""
    conv, norm = kd.Match("0", "0"), kd.Match("1", "1")
    return {
        "vid": kd.Term(conv, kd.losses.VID()),
        "ofd": kd.Term(norm, kd.losses.Overhaul(), weight=1e-3),
        "mgd": kd.Term(norm, kd.losses.MaskedGenerative(), weight=1e-4),
        "wkd": kd.Term(norm, kd.losses.WKDF(grid=2), schedule=kd.schedules.Cosine(start=0.5)),
        "review": kd.Term(norm, kd.losses.ReviewKD(), schedule=kd.schedules.Warmup(0.5), resize=None),
        "vkd": kd.Term(kd.Match("4", "4"), kd.losses.VkD(), projection=OrthogonalLinear(4, 8)),
        "dkd": kd.Term(kd.Match("logits", "logits"), kd.losses.DKD()),
    }


@pytest.mark.parametrize("mix", [kd.data.Mixup(0.4), kd.data.CutMix(), None], ids=["mixup", "cutmix", "modules"])
def test_resumed_in_mid_epoch_a_run_is_bit_equal(images: Path, mix: Any, tmp_path: Path) -> None:
    def fit(folder: Path, killed_at: int = 0, resume: Path | None = None) -> dict[str, torch.Tensor]:
        save = ModelCheckpoint(folder, save_last=True, every_n_train_steps=5, save_top_k=0)
        callbacks = [StepSeed(0), save, Kill(killed_at)]
        trainer = Trainer(max_steps=15, callbacks=callbacks, limit_val_batches=0, **QUIET)
        torch.manual_seed(0)
        fitted = module(network(0, 8), **(with_modules() if mix is None else {}))
        trainer.fit(fitted, datamodule=data_of(images, mix), ckpt_path=resume)
        return weights(fitted)

    whole = fit(tmp_path / "whole")
    with pytest.raises(Killed):  # six batches an epoch: the last checkpoint is in the middle of the second
        fit(tmp_path / "cut", killed_at=11)
    resumed = fit(tmp_path / "cut", resume=tmp_path / "cut" / "last.ckpt")
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def test_cached_views_train_the_same_student(images: Path, tmp_path: Path) -> None:
    def fit(teacher: Any) -> dict[str, torch.Tensor]:
        trainer = Trainer(
            max_epochs=3, callbacks=[StepSeed(0)], limit_val_batches=0, enable_checkpointing=False, **QUIET
        )
        fitted = module(teacher)
        trainer.fit(fitted, datamodule=data_of(images, kd.data.Mixup(0.4), views=2))
        return weights(fitted)

    data = data_of(images, kd.data.Mixup(0.4), views=2)
    data.setup()
    cache = kd.TeacherCache.build(
        network(0, 8),
        data.iterate_once(),
        tmp_path / "teacher",
        ["logits"],
        dtype="fp32",
        trainer=Trainer(enable_checkpointing=False, **QUIET),
        data=data.cached_as,
    )
    live, cached = fit(network(0, 8)), fit(kd.CachedTeacher(cache.path))
    assert all(torch.allclose(live[name], cached[name], atol=1e-5) for name in live)


@pytest.mark.slow
def test_a_compiled_student_learns_the_same(images: Path) -> None:
    def fit(compile: bool) -> dict[str, torch.Tensor]:
        trainer = Trainer(max_steps=4, limit_val_batches=0, enable_checkpointing=False, **QUIET)
        objective = kd.Objective({"hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel())})
        student = kd.models.cifar_resnet(8, num_labels=2)
        student.load_state_dict(start)
        fitted = kd.DistillationModule(student, None, objective, partial(torch.optim.SGD, lr=0.05), compile=compile)
        trainer.fit(fitted, datamodule=data_of(images, kd.data.Mixup(0.4)))
        return weights(fitted)

    start = kd.models.cifar_resnet(8, num_labels=2).state_dict()
    plain, compiled = fit(compile=False), fit(compile=True)
    assert all(torch.allclose(plain[name], compiled[name], atol=1e-4) for name in plain)
