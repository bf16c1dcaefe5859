"""What is computed chunk by chunk is what is computed at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kd_lightning import losses
from kd_lightning.functional import chunks
from kd_lightning.functional.hard_label import hard_label
from kd_lightning.functional.logits import soft_target

from ..losses.cases import CASES, DIFFERENTIABLE, LossCase, Sample

each_loss = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.fixture(params=[1, 7])
def low(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of one item, and of a few."""
    monkeypatch.setattr(chunks, "CHUNK", request.param)


def computed(loss: nn.Module, sample: Sample) -> tuple[Tensor, list[Tensor]]:
    """Return the value and its gradient for each of the student's tensors."""
    sample = sample.requires_grad()
    value = sample.apply(loss)
    return value.detach(), list(torch.autograd.grad(value, sample.student))


def cases_of(sample: Sample) -> list[Sample]:
    """Return a sample as it is, of one row, without mask, and with an empty one."""
    samples = [sample]
    if sample.student[0].dim():
        samples.append(sample.slice(slice(0, 1)))
    if sample.mask is not None:
        samples.append(replace(sample, mask=torch.zeros_like(sample.mask)))
    labelled = sample.labels is not None or not sample.teacher[0].is_floating_point()
    if sample.mask is not None and not labelled:  # a label is a position under the mask only
        samples.append(replace(sample, mask=None))
    return samples


@each_loss
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [1, 7])
def test_every_loss_in_chunks_is_the_loss_at_once(
    case: LossCase, dtype: torch.dtype, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sample in cases_of(case.sample(0).map(lambda x: x.to(dtype))):
        expected, gradients = computed(case.build().eval(), sample)
        with monkeypatch.context() as patch:
            patch.setattr(chunks, "CHUNK", chunk)
            value, found = computed(case.build().eval(), sample)
        torch.testing.assert_close(value, expected)
        for ours, theirs in zip(found, gradients, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=str)
def test_gradcheck_in_chunks(case: LossCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 7)
    sample, loss = case.sample(0).double(), case.build().double()

    def of_student(*student: Tensor) -> Tensor:
        return replace(sample, student=list(student)).apply(loss)

    assert torch.autograd.gradcheck(of_student, [x.clone().requires_grad_() for x in sample.student])


@pytest.mark.usefixtures("low")
def test_a_mean_of_values_with_trailing_axes_and_a_mask() -> None:
    x, mask = torch.arange(24.0).reshape(4, 3, 2), torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 1]])
    expected = x.square()[mask.bool()].mean()
    torch.testing.assert_close(chunks.chunked_mean(torch.square, [x], mask, x.numel()), expected)
    torch.testing.assert_close(chunks.chunked_mean(torch.square, [x], None, x.numel()), x.square().mean())


@pytest.mark.usefixtures("low")
def test_rows_are_joined_in_their_order() -> None:
    x = torch.randn(9, 2)
    assert torch.equal(chunks.chunked(lambda x, scale: x.sum(-1) * scale, [x, 2.0], x.numel()), x.sum(-1) * 2)


class Largest(TorchDispatchMode):
    """Notes how many entries the largest float32 tensor has that is made."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.dtype is torch.float32:
            self.entries = max(self.entries, made.numel())
        return made


@pytest.mark.parametrize(
    "loss",
    [
        losses.SoftTarget(temperature=2.0),
        losses.SoftLabels(),
        losses.LogitMSE(),
        losses.HardLabel(),
        losses.ProbabilityShift(losses.SoftTarget()),
    ],
    ids=["soft", "labels", "mse", "hard", "shift"],
)
def test_of_large_half_precision_logits_no_whole_float32_copy_is_ever_made(
    loss: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = (torch.randn(2, 8, 50).bfloat16() for _ in range(2))
    student.requires_grad_()
    labels = torch.randint(0, 50, (2, 8))
    mask = torch.ones(2, 8)
    arguments = [student, labels if isinstance(loss, losses.HardLabel) else teacher, mask]
    arguments += [labels] if isinstance(loss, losses.ProbabilityShift) else []
    monkeypatch.setattr(chunks, "CHUNK", 100)
    with Largest() as largest:
        loss(*arguments).backward()
    assert largest.entries == 100
    assert student.grad is not None
    assert student.grad.dtype is torch.bfloat16


def test_a_gradient_of_a_gradient_passes_through_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 4)
    z, t = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.randn(3, 4, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda z: soft_target(z, t), [z])


def test_without_gradients_nothing_is_recomputed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 4)
    monkeypatch.setattr(chunks, "checkpoint", None)  # would fail if called
    z, labels = torch.randn(3, 4), torch.tensor([0, 1, -100])
    torch.testing.assert_close(hard_label(z, labels), nn.functional.cross_entropy(z, labels))


def test_one_temperature_for_all_rows_is_cut_like_none(monkeypatch):
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 5), torch.randn(6, 5)
    temperature = torch.tensor([2.0])
    whole = soft_target(student, teacher, temperature)
    monkeypatch.setattr(chunks, "CHUNK", 7)
    torch.testing.assert_close(soft_target(student, teacher, temperature), whole)
