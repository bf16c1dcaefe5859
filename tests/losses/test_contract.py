"""What holds for every loss, whatever it computes. A new loss is one row in `cases.py`."""

from __future__ import annotations

import copy
import pickle
import shutil
from dataclasses import replace

import hydra
import numpy as np
import pytest
import torch
from torch import Tensor

from kd_lightning import losses

from .cases import BY_CLASS, CASES, LossCase, Sample
from .oracles import numeric_gradient

GARBAGE = [float("nan"), float("inf"), -float("inf"), 1e9]

each_loss = pytest.mark.parametrize("case", CASES, ids=str)
each_masked_loss = pytest.mark.parametrize("case", [c for c in CASES if c.sample(0).mask is not None], ids=str)
each_class_first = pytest.mark.parametrize("case", BY_CLASS, ids=str)
each_mean = pytest.mark.parametrize("case", [c for c in CASES if c.name != "identity"], ids=str)


def gradients(loss: torch.nn.Module, sample: Sample) -> tuple[Tensor, list[Tensor]]:
    """Return the value and its gradient for each of the student's tensors."""
    sample = sample.requires_grad()
    value = loss(*sample.arguments())
    return value.detach(), list(torch.autograd.grad(value, sample.student))


def test_every_public_loss_has_a_row() -> None:
    assert {case.build.func.__name__ for case in CASES} == set(losses.__all__) - {"DistillationLoss"}


@each_loss
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_value_and_gradient_match_the_oracle(case: LossCase, seed: int) -> None:
    sample = case.sample(seed).double()
    mask = None if sample.mask is None else sample.mask.bool().numpy()
    teacher = [x.numpy() for x in sample.teacher]

    def oracle(student: list[np.ndarray]) -> float:
        sides = [side if len(side) == 2 else side[0] for side in (student, teacher)]
        return case.oracle(*sides, mask)

    value, grads = gradients(case.build(), sample)
    student = [x.numpy().copy() for x in sample.student]
    assert value.item() == pytest.approx(oracle(student), rel=1e-9, abs=1e-12)
    for ours, expected in zip(grads, numeric_gradient(oracle, student), strict=True):
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5, atol=1e-8)


@each_loss
def test_value_is_a_finite_float32_scalar(case: LossCase) -> None:
    value = case.build()(*case.sample(0).arguments())
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert value.isfinite()


@each_loss
def test_gradient_reaches_the_student_and_never_the_teacher(case: LossCase) -> None:
    sample = case.sample(0).requires_grad()
    case.build()(*sample.arguments()).backward()
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in sample.student)
    assert all(x.grad is None for x in sample.teacher)


@each_masked_loss
@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_in_padding_changes_neither_value_nor_gradient(case: LossCase, garbage: float) -> None:
    clean = case.sample(0)
    dirty = clean.map(lambda x: x.masked_fill(clean.padding(x), garbage))
    value, grads = gradients(case.build(), clean)
    dirty_value, dirty_grads = gradients(case.build(), dirty)
    assert dirty_value == value
    for ours, expected in zip(dirty_grads, grads, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)
        assert (ours[clean.padding(ours)] == 0).all()


@each_masked_loss
@pytest.mark.parametrize("garbage", [0.0, float("nan")])
def test_empty_mask_gives_a_differentiable_zero(case: LossCase, garbage: float) -> None:
    sample = case.sample(0)
    sample = replace(sample, mask=torch.zeros_like(sample.mask)).map(lambda x: x * 0 + garbage)
    value, grads = gradients(case.build(), sample)
    assert value == 0
    assert all((grad == 0).all() for grad in grads)
    assert case.build().count(*sample.arguments()) == 0


@each_masked_loss
def test_mask_may_be_integers_or_booleans(case: LossCase) -> None:
    sample = case.sample(0)
    loss = case.build()
    assert loss(*sample.arguments()) == loss(*replace(sample, mask=sample.mask.bool()).arguments())


@each_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(case: LossCase, dtype: torch.dtype) -> None:
    half = case.sample(0).map(lambda x: x.to(dtype))
    value = case.build()(*half.arguments())
    torch.testing.assert_close(value, case.build()(*half.map(torch.Tensor.float).arguments()), rtol=0, atol=0)
    # Rounding of the inputs is all that is lost.
    torch.testing.assert_close(value, case.build()(*case.sample(0).arguments()), rtol=0.05, atol=0.02)


@each_loss
def test_it_says_that_it_widens_so_that_no_copies_are_made_for_it(case: LossCase) -> None:
    assert case.build().widens


@each_loss
def test_autocast_does_not_narrow(case: LossCase) -> None:
    sample = case.sample(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = case.build()(*sample.arguments())
    torch.testing.assert_close(value, case.build()(*sample.arguments()), rtol=0, atol=0)


@each_class_first
def test_gradcheck(case: LossCase) -> None:
    sample = case.sample(0).double()
    loss = case.build()

    def of_student(*student: Tensor) -> Tensor:
        return loss(*replace(sample, student=list(student)).arguments())

    assert torch.autograd.gradcheck(of_student, [x.clone().requires_grad_() for x in sample.student])


@each_loss
def test_pickles_and_deep_copies(case: LossCase) -> None:
    loss = case.build()
    arguments = case.sample(0).arguments()
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert twin(*arguments) == loss(*arguments)
        assert repr(twin) == repr(loss)


@each_class_first
def test_compiles_without_a_graph_break(case: LossCase) -> None:
    torch._dynamo.reset()
    loss = case.build()

    def both(*arguments: Tensor) -> tuple[Tensor, Tensor | None]:
        return loss(*arguments), loss.count(*arguments)

    compiled = torch.compile(both, backend="eager", fullgraph=True)
    sample = case.sample(0).requires_grad()
    value, count = compiled(*sample.arguments())
    torch.testing.assert_close(value, loss(*sample.arguments()))
    assert count == loss.count(*sample.arguments())
    expected = gradients(loss, sample)[1]
    for ours, grad in zip(torch.autograd.grad(value, sample.student), expected, strict=True):
        torch.testing.assert_close(ours, grad)
    if case.name != "identity":
        larger = sample.slice(torch.tensor([0, 1, 2, 3, 0, 1]))
        torch.testing.assert_close(compiled(*larger.arguments())[0], loss(*larger.arguments()))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@each_loss
def test_compiles_to_machine_code(case: LossCase) -> None:
    torch._dynamo.reset()
    loss, sample = case.build(), case.sample(0).requires_grad()
    value = torch.compile(loss, fullgraph=True)(*sample.arguments())
    expected, grads = gradients(loss, sample)
    torch.testing.assert_close(value.detach(), expected)
    for ours, grad in zip(torch.autograd.grad(value, sample.student), grads, strict=True):
        torch.testing.assert_close(ours, grad)


@each_loss
def test_builds_from_its_config(case: LossCase) -> None:
    loss = hydra.utils.instantiate(case.config())
    arguments = case.sample(0).arguments()
    assert type(loss) is case.build.func
    assert loss(*arguments) == case.build()(*arguments)


@each_mean
@pytest.mark.parametrize("at", [1, 2, 3])
def test_counts_weigh_two_halves_into_the_whole(case: LossCase, at: int) -> None:
    sample, loss = case.sample(0).double(), case.build()
    halves = [sample.slice(slice(0, at)), sample.slice(slice(at, None))]
    counts = [loss.count(*half.arguments()) for half in halves]
    assert all(count.shape == () and count.is_floating_point() for count in counts)
    values = [loss(*half.arguments()) for half in halves]
    whole = sum(c * v for c, v in zip(counts, values, strict=True)) / sum(counts)
    torch.testing.assert_close(whole, loss(*sample.arguments()))
    assert sum(counts) == loss.count(*sample.arguments())


def test_the_model_s_own_loss_has_no_count() -> None:
    assert losses.Identity().count(torch.tensor(1.0)) is None


@pytest.mark.parametrize("loss", [losses.SoftTarget(2.0), losses.SoftCrossEntropy(2.0)], ids=str)
def test_a_teacher_that_is_not_a_number_shows_in_the_loss(loss: losses.DistillationLoss):
    teacher = torch.full((2, 3), float("nan"))
    assert not loss(torch.randn(2, 3), teacher).isfinite()
