"""Each loss in a term whose teacher's features come from a cache, against the live teacher."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kd_lightning as kd
from kd_lightning.core.errors import MatchError
from kd_lightning.features import model_info

from ..toys import bert, trainer, words
from .cases import FIRST, LossCase
from .cells import CELLS, PASSES
from .samples import BATCH, CLASSES, ROW_LABELS
from .test_two_ranks import batch_of

pytestmark = pytest.mark.filterwarnings("ignore:The 'predict_dataloader' does not have many workers")


class Stage(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out, 3, stride=2, padding=1, bias=False)
        self.norm, self.relu = nn.BatchNorm2d(out), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.norm(self.conv(x)))


class Net(nn.Module):
    """Two stages of maps, their mean over pixels, and a linear head."""

    main_input_name = "pixel_values"

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stages = nn.Sequential(Stage(3, 4), Stage(4, 8))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8, CLASSES)
        for stage in self.stages:
            nn.init.normal_(stage.norm.weight)
            nn.init.normal_(stage.norm.bias)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.pool(self.stages(pixel_values)))


@torch.no_grad()
def scaled(model: nn.Module) -> nn.Module:
    """Return a Transformer whose attention is not the same everywhere, as it is when it is new."""
    for parameter in model.parameters():
        parameter.mul_(8 if parameter.dim() == 2 else 1)
    return model


PLACES: dict[str, tuple[str, ...]] = {
    "IRG": ("stages.0", "stages.1", "pool", "logits"),
    "Overhaul": ("stages.0.norm", "stages.1.norm"),
    "PKT": ("logits",),
    "ReviewKD": ("stages.0", "stages.1", "pool"),
    "VkD": ("pool",),
    "WKDL": ("head",),
}
"""Addresses in `Net` of losses that need particular ones."""


def places(case: LossCase) -> tuple[str, ...]:
    """Return the addresses of a loss: those of its row, maps and vectors in `Net`."""
    known = PLACES.get(case.loss.func.__name__)
    renamed = {"stages.1": "stages.0", "stages.2": "stages.1", "start_logits": "logits"}
    return known or tuple(renamed.get(address, address) for address in case.sample(0).addresses)


def is_of_images(case: LossCase) -> bool:
    return any(address.startswith(("stages", "pool", "head")) for address in places(case))


def images() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randn(BATCH, 3, 12, 12, generator=draw) + 2 * torch.randn(BATCH, 3, 1, 1, generator=draw)
    return {"pixel_values": pixels, "labels": ROW_LABELS}


@dataclass
class World:
    """A student and a teacher, a batch, and a cache of all that the losses ask of the teacher."""

    student: nn.Module
    teacher: nn.Module
    batch: dict[str, Any]
    cache: Path

    def value(self, case: LossCase, teacher: Any) -> Tensor:
        """Return what an objective with the loss is for a source of the teacher's features."""
        sample, student = case.sample(0), kd.LiveTeacher(self.student)
        if case.name == "label_mse":
            student = kd.LiveTeacher(bert(2, seed=5, labels=1))
        own = tuple("logits" if a == "head" else a for a in places(case))
        target = None if case.name == "identity" else sample.target or places(case)
        objective = kd.Objective({"term": kd.Term(kd.Match(own, target), case.loss(), resize=None)})
        torch.manual_seed(0)
        objective = objective.bind(student.info, teacher.info)
        student.ask(objective.student_addresses)
        teacher.ask(objective.teacher_addresses)
        batch = self.batch | {k: v for k, v in batch_of(sample).items() if k in ("labels", "start_positions")}
        found = teacher(batch) if objective.teacher_addresses else {}
        return objective(student(batch), found, batch, seed=7).total.detach()


def made(folder: Path, student: nn.Module, teacher: nn.Module, batch: dict[str, Any], of_images: bool) -> World:
    """Build one cache of all that the losses on images, or on text, ask of a teacher."""
    batch = batch | {"sample_id": torch.arange(BATCH) + 5}
    cases = [case for case in FIRST.values() if is_of_images(case) == of_images and case.sample(0).target is None]
    asked = sorted({address for case in cases for address in places(case)} - {"loss"})
    norms = [address for address in asked if address.endswith("norm")]
    state = {**dict.fromkeys(norms, ("margins",)), **({"head": ("classifier",)} if of_images else {})}
    kd.TeacherCache.build(teacher, [batch], folder / "cache", asked, dtype="fp32", trainer=trainer(folder), state=state)
    return World(student, teacher, batch, folder / "cache")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, World]:
    """Return networks of images, and of text."""
    folders = {of_images: tmp_path_factory.mktemp("cached") for of_images in (True, False)}
    return {
        True: made(folders[True], Net(1), Net(0), images(), of_images=True),
        False: made(folders[False], scaled(bert(2, seed=1)), scaled(bert(2)), words(BATCH), of_images=False),
    }


@pytest.mark.parametrize("name", CELLS)
def test_a_cache_gives_the_live_teacher_s_value(name: str, worlds: dict[bool, World]) -> None:
    case = next(case for case in FIRST.values() if case.loss.func.__name__ == name)
    world = worlds[is_of_images(case)]
    live = world.value(case, kd.LiveTeacher(world.teacher))
    if CELLS[name].cached == PASSES:
        torch.testing.assert_close(world.value(case, kd.CachedTeacher(world.cache)), live, rtol=1e-6, atol=1e-9)
        assert live.isfinite()
        assert live.abs() > 1e-6
    else:
        with pytest.raises(Exception, match=re.escape(CELLS[name].cached)):
            world.value(case, kd.CachedTeacher(world.cache))


@pytest.mark.parametrize("name", ["Overhaul", "WKDL"])
def test_what_losses_ask_of_the_teacher_s_weights_must_be_in_the_cache(
    name: str, worlds: dict[bool, World], tmp_path: Path
) -> None:
    case, world = FIRST[getattr(kd.losses, name)], worlds[True]
    asked = list(places(case))
    kd.TeacherCache.build(world.teacher, [world.batch], tmp_path / "c", asked, dtype="fp32", trainer=trainer(tmp_path))
    with pytest.raises(MatchError, match="the cache must be built with this term in the objective"):
        world.value(case, kd.CachedTeacher(tmp_path / "c"))
    objective = kd.Objective({"term": kd.Term(kd.Match("logits" if name == "WKDL" else asked, asked), case.loss())})
    bound = objective.bind(model_info(world.student), model_info(world.teacher))
    assert bound.teacher_state == dict.fromkeys(asked, ("margins" if name == "Overhaul" else "classifier",))
