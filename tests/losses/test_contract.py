"""What holds for every loss, whatever it computes. A new loss is one row in `cases.py`."""

from __future__ import annotations

import copy
import pickle
import re
import shutil
from dataclasses import replace
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from torch import Tensor

from kd_lightning import losses

from .cases import BY_CLASS, CASES, DIFFERENTIABLE, FIRST, LossCase, Sample
from .cells import CELLS, PASSES
from .image_cases import IMAGES
from .oracles import directional_gradient, numeric_gradient

GARBAGE = [float("nan"), float("inf"), -float("inf"), 1e9]
MANY = 50
"""Entries of the student's above which the oracle's gradient is asked for along random directions only."""

NO_MEANS = {
    "CorrelationCongruence",
    "DIST",
    "IRG",
    "Identity",
    "PKT",
    "RKDAngle",
    "RKDDistance",
    "SimilarityPreserving",
}
"""Losses that are no mean over samples or tokens; all but the model's own relate the rows of a batch."""

each_loss = pytest.mark.parametrize("case", CASES, ids=str)
each_masked_loss = pytest.mark.parametrize("case", [c for c in CASES if c.sample(0).mask is not None], ids=str)
each_class_first = pytest.mark.parametrize("case", BY_CLASS, ids=str)
each_class_first_but_detached = pytest.mark.parametrize("case", DIFFERENTIABLE, ids=str)
means = [case for case in CASES if case.loss.func.__name__ not in NO_MEANS]
each_mean = pytest.mark.parametrize("case", means, ids=str)
each_other = pytest.mark.parametrize("case", [case for case in CASES if case not in means], ids=str)


def gradients(loss: torch.nn.Module, sample: Sample) -> tuple[Tensor, list[Tensor]]:
    """Return the value and its gradient for each of the student's tensors."""
    sample = sample.requires_grad()
    value = sample.apply(loss)
    return value.detach(), list(torch.autograd.grad(value, sample.student))


def test_every_public_loss_has_a_row_and_all_cells() -> None:
    public = set(losses.__all__) - {"DistillationLoss"}
    assert {case.loss.func.__name__ for case in CASES} == public == set(CELLS)
    assert [name for name, cells in CELLS.items() if not all(vars(cells).values())] == []


@each_loss
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_value_and_gradient_match_the_oracle(case: LossCase, seed: int) -> None:
    sample, loss = case.sample(seed).double(), case.build().double()
    mask = None if sample.mask is None else sample.mask.bool().numpy()
    teacher = [x.numpy() for x in sample.teacher]
    state = (
        {"state": {name: x.numpy().copy() for name, x in loss.state_dict().items()}} if list(loss.parameters()) else {}
    )

    def oracle(student: list[np.ndarray]) -> float:
        sides = [tuple(side) if len(side) > 1 else side[0] for side in (student, teacher)]
        return case.oracle(*sides, mask, **state)

    value, grads = gradients(loss, sample)
    student = [x.numpy().copy() for x in sample.student]
    assert value.item() == pytest.approx(oracle(student), rel=case.rtol, abs=1e-12)
    if sum(x.size for x in student) <= MANY:
        for ours, expected in zip(grads, numeric_gradient(oracle, student), strict=True):
            np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5, atol=1e-8)
    for direction in range(0 if sum(x.size for x in student) <= MANY else 3):
        draw = np.random.default_rng(direction)
        way = [draw.choice([-1.0, 0.0, 1.0], x.shape) for x in student]
        ours = sum((grad.numpy() * d).sum() for grad, d in zip(grads, way, strict=True))
        assert ours == pytest.approx(directional_gradient(oracle, student, way), rel=1e-5, abs=1e-7)


@each_loss
def test_value_is_a_finite_float32_scalar(case: LossCase) -> None:
    value = case.sample(0).apply(case.build())
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert value.isfinite()


@each_loss
def test_gradient_reaches_the_student_and_never_the_teacher(case: LossCase) -> None:
    sample = case.sample(0).requires_grad()
    sample.apply(case.build()).backward()
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
    assert sample.apply(case.build().count) == (0 if case in means else None)


@each_masked_loss
def test_mask_may_be_integers_or_booleans(case: LossCase) -> None:
    sample = case.sample(0)
    loss = case.build()
    assert sample.apply(loss) == replace(sample, mask=sample.mask.bool()).apply(loss)


@each_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(case: LossCase, dtype: torch.dtype) -> None:
    half = case.sample(0).map(lambda x: x.to(dtype))
    value = half.apply(case.build())
    torch.testing.assert_close(value, half.map(torch.Tensor.float).apply(case.build()), rtol=0, atol=0)
    # Rounding of the inputs is all that is lost.
    torch.testing.assert_close(value, case.sample(0).apply(case.build()), rtol=0.05, atol=0.02)


@each_loss
def test_it_says_that_it_widens_so_that_no_copies_are_made_for_it(case: LossCase) -> None:
    assert case.build().widens


@each_loss
def test_autocast_does_not_narrow(case: LossCase) -> None:
    sample = case.sample(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = sample.apply(case.build())
    torch.testing.assert_close(value, sample.apply(case.build()), rtol=0, atol=0)


@each_class_first_but_detached
def test_gradcheck(case: LossCase) -> None:
    sample = case.sample(0).double()
    loss = case.build().double()

    def of_student(*student: Tensor) -> Tensor:
        return replace(sample, student=list(student)).apply(loss)

    assert torch.autograd.gradcheck(of_student, [x.clone().requires_grad_() for x in sample.student])


@each_loss
def test_pickles_and_deep_copies(case: LossCase) -> None:
    loss = case.build()
    sample = case.sample(0)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert sample.apply(twin) == sample.apply(loss)
        assert repr(twin) == repr(loss)


def check_compiled(case: LossCase) -> None:
    """Compare a compiled loss and its count with the plain ones: values, gradients, and those of a larger batch."""
    torch._dynamo.reset()
    loss = case.build()

    def both(*sides: Any, **given: Any) -> tuple[Tensor, Tensor | None]:
        return loss(*sides, **given), loss.count(*sides, **given)

    compiled = torch.compile(both, backend="eager", fullgraph=True)
    sample = case.sample(0).requires_grad()
    value, count = sample.apply(compiled)
    torch.testing.assert_close(value, sample.apply(loss))
    assert count == sample.apply(loss.count)
    expected = gradients(loss, sample)[1]
    for ours, grad in zip(torch.autograd.grad(value, sample.student), expected, strict=True):
        torch.testing.assert_close(ours, grad)
    if case.name != "identity":
        larger = sample.slice(torch.tensor([0, 1, 2, 3, 0, 1]))
        torch.testing.assert_close(larger.apply(compiled)[0], larger.apply(loss))


@each_class_first
def test_compiles_without_a_graph_break(case: LossCase) -> None:
    cell = CELLS[case.loss.func.__name__].compile
    if cell == PASSES:
        check_compiled(case)
    else:
        with pytest.raises(Exception, match=re.escape(cell)):
            check_compiled(case)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("case", [c for c in CASES if c not in IMAGES or c is FIRST[c.loss.func]], ids=str)
def test_compiles_to_machine_code(case: LossCase) -> None:
    torch._dynamo.reset()
    loss, sample = case.build(), case.sample(0).requires_grad()
    value = sample.apply(torch.compile(loss, fullgraph=True))
    expected, grads = gradients(loss, sample)
    torch.testing.assert_close(value.detach(), expected)
    for ours, grad in zip(torch.autograd.grad(value, sample.student), grads, strict=True):
        # Convolutions add in another order.
        torch.testing.assert_close(ours, grad, rtol=1e-5, atol=1e-5 * max(1.0, float(grad.abs().max())))


@each_loss
def test_builds_from_its_config(case: LossCase) -> None:
    loss = case.prepared(hydra.utils.instantiate(case.config()))
    sample = case.sample(0)
    assert type(loss) is case.loss.func
    assert sample.apply(loss) == sample.apply(case.build())


@each_mean
@pytest.mark.parametrize("at", [1, 2, 3])
def test_counts_weigh_two_halves_into_the_whole(case: LossCase, at: int) -> None:
    sample, loss = case.sample(0).double(), case.build().double().eval()  # batch norms have the statistics of a batch
    halves = [sample.slice(slice(0, at)), sample.slice(slice(at, None))]
    counts = [half.apply(loss.count) for half in halves]
    assert all(count.shape == () and count.is_floating_point() for count in counts)
    values = [half.apply(loss) for half in halves]
    whole = sum(c * v for c, v in zip(counts, values, strict=True)) / sum(counts)
    torch.testing.assert_close(whole, sample.apply(loss))
    assert sum(counts) == sample.apply(loss.count)


@each_other
def test_other_losses_have_no_count_and_relate_rows_but_for_the_model_s_own(case: LossCase) -> None:
    loss = case.build()
    assert case.sample(0).apply(loss.count) is None
    assert loss.gather == (case.name != "identity")


@pytest.mark.parametrize("loss", [losses.SoftTarget(2.0), losses.SoftCrossEntropy(2.0)], ids=str)
def test_a_teacher_that_is_not_a_number_shows_in_the_loss(loss: losses.DistillationLoss):
    teacher = torch.full((2, 3), float("nan"))
    assert not loss(torch.randn(2, 3), teacher).isfinite()
