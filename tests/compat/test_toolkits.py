"""Losses of other toolkits, and some of ours on maps, by their names in a configuration and on two networks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

import kd_lightning as kd
from kd_lightning.compat import mdistiller, mmrazor, repdistiller, torchdistill, zoo
from kd_lightning.features import FeatureTap, model_info
from kd_lightning.features.state import margins
from kd_lightning.models.cifar.resnet import CifarResNet

STAGES = [f"stages.{k}" for k in (1, 2, 3)]
PREACTS = [f"{stage}.preact" for stage in STAGES]
FLOWS = ["stages.1", "stages.2"]

LOSSES: dict[str, dict[str, Any]] = {
    "zoo.AttentionTransfer": {"at": STAGES},
    "zoo.Overhaul": {"at": PREACTS},
    "zoo.PKT": {"at": "pool"},
    "zoo.RKDDistance": {"at": "pool"},
    "mdistiller.PKT": {"at": "pool"},
    "repdistiller.PKT": {"at": "pool"},
    "repdistiller.CorrelationCongruence": {"at": "pool"},
    "torchdistill.CorrelationCongruence": {"at": "pool", "kernel": "bilinear"},
    "torchdistill.DIST": {"at": "logits", "temperature": 4.0},
    "torchdistill.FSP": {"at": FLOWS, "widths": (4, 4, 8, 16)},
    "torchdistill.PKT": {"at": "pool"},
    "torchdistill.SimilarityPreserving": {"at": STAGES},
    "mmrazor.RKDAngle": {"at": "pool"},
    "mmrazor.RKDDistance": {"at": "pool"},
    "mmrazor.WSLD": {"at": "logits", "temperature": 2.0},
}


def networks(widths: tuple[int, ...] = (4, 6, 8, 20)) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return CifarResNet(1, (4, 4, 8, 16), 5), CifarResNet(2, widths, 5).eval()


def run(term: kd.Term, student: nn.Module, teacher: nn.Module) -> torch.Tensor:
    """Bind a term to two networks, evaluate it on images, and go back."""
    objective = kd.Objective({"t": term}).bind(model_info(student), model_info(teacher))
    batch = {"pixel_values": torch.randn(4, 3, 16, 16), "labels": torch.tensor([0, 1, 2, 3])}
    seen = []
    for model, addresses in ((student, objective.student_addresses), (teacher, objective.teacher_addresses)):
        with FeatureTap(model, addresses) as tap:
            model(batch["pixel_values"])
            seen.append(tap.take())
    total = objective(*seen, batch).total
    total.backward()
    return total


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_named_in_a_configuration_and_trains_a_network(name):
    options = dict(LOSSES[name])
    at, widths = options.pop("at"), options.pop("widths", (4, 6, 8, 20))
    at = "head" if at == "logits" else at
    match = {"_target_": "kd_lightning.Match", "student": at, "teacher": at}
    loss = {"_target_": f"kd_lightning.compat.{name}", **options}
    student, teacher = networks(widths)
    total = run(instantiate({"_target_": "kd_lightning.Term", "match": match, "loss": loss}), student, teacher)
    assert total.isfinite()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_every_loss_of_a_toolkit_is_tried():
    toolkits = {"zoo": zoo, "mdistiller": mdistiller, "mmrazor": mmrazor, "torchdistill": torchdistill}
    modules = {**toolkits, "repdistiller": repdistiller}
    assert {f"{name}.{loss}" for name, module in modules.items() for loss in module.__all__} == LOSSES.keys()


def test_margins_of_our_networks_are_those_of_the_last_norm_of_each_stage():
    """What goes into the last ReLU has a shortcut added, which the authors leave out of account, too."""
    student, teacher = networks()
    for k in (1, 2, 3):
        norm = teacher.stages[k - 1].blocks[-1].norm2
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.uniform_(-0.5, 0.5)
    loss = kd.losses.Overhaul()
    total = run(kd.Term(kd.Match(PREACTS, PREACTS), loss), student, teacher)
    assert total.isfinite()
    for k, stage in enumerate(loss.stages):
        torch.testing.assert_close(stage.margins, margins(teacher.stages[k].blocks[-1].norm2, "").float().detach())


def test_a_copy_of_a_network_has_the_norm_of_its_own():
    _, teacher = networks()
    copied = copy.deepcopy(teacher)
    assert copied.stages[0].preact.norm is copied.stages[0].blocks[-1].norm2
    assert copied.stages[0].preact.norm is not teacher.stages[0].blocks[-1].norm2
    assert not [name for name in teacher.state_dict() if "preact" in name]
