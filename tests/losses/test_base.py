"""What a term, or a loss around another, must know of a loss: its traits, arguments and `bind`."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_lightning import losses, schedules
from kd_lightning.core.types import FeatureInfo
from kd_lightning.losses.base import ARGUMENTS, LossTraits, WrappedLoss


def everything(student, teacher, mask, labels, batch, progress, sample_id, seed):
    return student.sum()


def test_a_foreign_loss_has_the_defaults_and_is_scheduled_if_it_asks_for_progress():
    assert LossTraits.of(nn.MSELoss()) == LossTraits((), elementwise=True)
    assert LossTraits.of(partial(F.mse_loss, reduction="mean")) == LossTraits((), elementwise=True)
    assert LossTraits.of(torch.dist) == LossTraits(())
    assert LossTraits.of(lambda s, t, **anything: s.sum()) == LossTraits(())
    assert LossTraits.of(everything) == LossTraits(ARGUMENTS, scheduled=True)


def test_attributes_of_a_module_that_is_no_distillation_loss_mean_nothing():
    class Foreign(nn.Module):
        widens = per_address = equal_widths = True

        def forward(self, student, teacher):
            return student.sum()

    assert LossTraits.of(Foreign()) == LossTraits(())


class Own(losses.DistillationLoss):
    def forward(self, student: Tensor, teacher: Tensor, progress: float = 0.0) -> Tensor:
        return student.sum() * progress


def test_a_loss_of_ones_own_that_names_progress_is_scheduled_unless_it_is_told_not_to_be():
    assert LossTraits.of(Own()).scheduled
    own = Own()
    own.scheduled = False
    assert not LossTraits.of(own).scheduled
    assert not LossTraits.of(losses.SoftTarget()).scheduled
    assert LossTraits.of(losses.SoftTarget(temperature_schedule=schedules.Cosine())).scheduled


def test_a_loss_around_another_has_its_traits():
    soft = losses.SoftTarget(temperature_schedule=schedules.Cosine())
    shift = LossTraits.of(losses.ProbabilityShift(soft))
    assert shift == LossTraits(
        ("mask", "labels", "progress"), equal_widths=True, per_address=True, widens=True, scheduled=True
    )
    assert LossTraits.of(losses.EMD(soft)) == LossTraits(
        ("mask", "progress"), equal_widths=True, per_address=False, widens=True, scheduled=True
    )
    assert LossTraits.of(losses.EMD(nn.MSELoss())) == LossTraits(("mask",))
    assert LossTraits.of(losses.ProbabilityShift(everything)).arguments == ARGUMENTS


def test_an_inner_loss_is_given_what_it_names_and_no_more():
    seen = {}

    def inner(student, teacher, seed, batch):
        seen.update(seed=seed, batch=batch)
        return student.sum()

    x = torch.ones(1, 2, 3)
    emd = losses.EMD(inner, 1, 1)
    assert emd(x, x, None, seed=3, batch="b", progress=0.5) == 6.0
    assert seen == {"seed": 3, "batch": "b"}
    assert emd.count(x, x, None, seed=3, batch="b") is None


class Learned(losses.DistillationLoss):
    def bind(self, student: tuple[FeatureInfo, ...], teacher: tuple[FeatureInfo, ...]) -> None:
        self.head = nn.Linear(student[0].width or 1, teacher[0].width or 1)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (self.head(student) - teacher).square().mean()


def test_binding_reaches_the_inner_loss_of_any_wrapper():
    class Half(WrappedLoss):
        def forward(self, student, teacher, **given):
            return self.compare(student, teacher, **given) / 2

    half = Half(Learned())
    half.bind((FeatureInfo("tokens", 4),), (FeatureInfo("tokens", 6),))
    assert half.loss.head.weight.shape == (6, 4)
    assert half(torch.zeros(2, 4), torch.zeros(2, 6)).requires_grad


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_wrapper_can_be_copied(copied):
    made = copied(losses.ProbabilityShift(losses.SoftTarget(2.0)))
    assert LossTraits.of(made) == LossTraits.of(losses.ProbabilityShift(losses.SoftTarget(2.0)))
    assert repr(made) == repr(losses.ProbabilityShift(losses.SoftTarget(2.0)))
