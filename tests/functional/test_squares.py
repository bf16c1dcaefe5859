from __future__ import annotations

import pytest
import torch

from kd_lightning.functional.squares import squared_distance


def naive(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return ((student - teacher) ** 2).sum(-1) * mask


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 4)])
def test_value_and_gradient_are_those_of_the_formula(shape):
    torch.manual_seed(0)
    student, teacher = (
        torch.randn(shape, dtype=torch.double, requires_grad=True),
        torch.randn(shape, dtype=torch.double),
    )
    mask = torch.rand(shape[:-1]) < 0.6
    weights = torch.randn(shape[:-1], dtype=torch.double)
    found, wanted = squared_distance(student, teacher, mask), naive(student, teacher, mask)
    torch.testing.assert_close(found, wanted)
    ours, theirs = (torch.autograd.grad((x * weights).sum(), student)[0] for x in (found, wanted))
    torch.testing.assert_close(ours, theirs)
    assert torch.autograd.gradcheck(lambda x: squared_distance(x, teacher, mask), student)


def test_what_is_masked_reaches_neither_value_nor_gradient():
    student = torch.tensor([[1.0, float("nan")], [2.0, 2.0]], requires_grad=True)
    found = squared_distance(student, torch.tensor([[float("inf"), 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
    found.sum().backward()
    assert found.tolist() == pytest.approx([0.0, 8.0])
    assert student.grad.tolist() == [[0.0, 0.0], [4.0, 4.0]]


def test_equal_features_have_a_gradient_of_zero():
    student = torch.ones(2, 3, requires_grad=True)
    squared_distance(student, torch.ones(2, 3)).sum().backward()
    assert student.grad.tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("other", [torch.float32, torch.bfloat16])
def test_half_precision_is_computed_in_float32(own, other):
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 64).to(own).requires_grad_(), torch.randn(4, 64).to(other)
    found = squared_distance(student, teacher)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, (student.float() - teacher.float()).square().sum(-1).detach())
    found.sum().backward()
    assert student.grad.dtype == own
