"""Every method of `configs/method`: a step with it, its modules in optimizer and checkpoint, and from a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch import Trainer
from omegaconf import OmegaConf
from torch import Tensor, nn

import kd_lightning as kd
from kd_lightning.cli.configs import CONFIGS, compose_config
from kd_lightning.training.optim import parameter_groups

METHODS = sorted(file.stem for file in (CONFIGS / "method").glob("*.yaml"))
ASKED = {
    "afd", "at", "cc", "cwd", "dist", "dkd", "fitnet", "fsp", "hard_token", "irg", "logits", "logitstd", "mgd",
    "minivit", "nkd", "nst", "ofd", "pkt", "reviewkd", "rkd", "sp", "st", "ttm", "vid", "vkd", "wkd", "wkd_features",
    "wkd_logits", "wsld",
}  # fmt: skip
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
    "enable_checkpointing": False,
}
each_method = pytest.mark.parametrize("method", METHODS)


def objective(method: str, experiment: str | None = None) -> kd.Objective:
    """Return what a method is in an experiment; in none, without Hydra's composition, which takes most of a test."""
    if experiment is not None:
        root: Any = compose_config([f"experiment={experiment}", f"method={method}"])
    else:
        terms = OmegaConf.load(CONFIGS / "method" / f"{method}.yaml")
        default = OmegaConf.load(CONFIGS / "objective" / "default.yaml")
        root = OmegaConf.merge(
            {"temperature": 4.0, "published": {}, "objective": default}, {"objective": {"terms": terms}}
        )
    return instantiate(OmegaConf.to_container(root.objective, resolve=True), _convert_="all")


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return kd.models.cifar_resnet(8, width=0.25, num_labels=10)


def batch(rows: int = 6, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(rows, 3, 16, 16, generator=generator)
    return {"pixel_values": images, "labels": torch.arange(rows) % 10, "sample_id": torch.arange(rows) + 10 * seed}


def module(method: str, teacher: Any = None) -> kd.DistillationModule:
    torch.manual_seed(0)
    return kd.DistillationModule(network(1), teacher or network(2), objective(method))


def test_the_methods_that_are_promised_are_there():
    assert set(METHODS) >= ASKED | {"alone"}


@each_method
def test_steps_train_the_student_and_the_methods_own_modules_and_a_cache_gives_the_same_loss(method: str, cache: Path):
    made = module(method)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    own = {f"objective.{name}" for name, _ in made.objective.named_parameters() if not name.endswith("base")}
    optimizer = torch.optim.SGD(parameter_groups(made.student, made.objective), lr=0.01, momentum=0.9)
    for step in range(2):
        optimizer.zero_grad()
        made.objective(made(batch(seed=step)), taught(made, batch(seed=step)), batch(seed=step), 0.5).total.backward()
        optimizer.step()
    changed = {name for name, value in made.state_dict().items() if not torch.equal(value, before[name])}
    assert {"student.head.weight", *own} <= changed
    assert all(torch.isfinite(value).all() for value in made.state_dict().values() if value.is_floating_point())
    cached = module(method, kd.CachedTeacher(cache))
    cached.load_state_dict(made.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(cached.compare(batch(seed=1)).total, made.compare(batch(seed=1)).total)


def taught(made: kd.DistillationModule, rows: dict[str, Tensor]) -> dict[str, Tensor]:
    return made.teacher(rows) if made.objective.teacher_addresses else {}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache of all that the methods ask of the teacher."""
    wanted, state = [], {}
    for term in (term for method in METHODS for term in objective(method).named_terms().values()):
        wanted += [address for address in term.teacher_addresses if address not in wanted]
        state |= term.teacher_state
    path, batches = tmp_path_factory.mktemp("methods") / "cache", [batch(seed=0), batch(seed=1)]
    options: dict[str, Any] = {"dtype": "fp32", "trainer": Trainer(**QUIET), "state": state}
    kd.TeacherCache.build(network(2), batches, path, wanted, **options)
    return path


@pytest.mark.parametrize("experiment", ["cifar10_zoo_r20", "cifar100_zoo_r20", "cifar100_mdi_r32x4_r8x4"])
@pytest.mark.parametrize("method", [pytest.param(m, marks=[] if m == "st" else pytest.mark.slow) for m in METHODS])
def test_published_recipes_have_every_method(method: str, experiment: str):
    assert objective(method, experiment).named_terms()


def test_weights_of_a_pair_reach_the_methods():
    terms = objective("dkd", "cifar100_mdi_r56_r20").named_terms()
    assert terms["dkd"].loss.beta == 2.0
    assert objective("reviewkd", "cifar100_mdi_r32x4_shufflenet_v2").named_terms()["reviewkd"].weight == 8.0
    assert objective("at", "cifar100_mdi_r56_r20").named_terms()["at"].weight == 3 * 1000
    assert objective("sp", "cifar100_mdi_r56_r20").named_terms()["sp"].match.student_addresses == ("stages.3",)
