from __future__ import annotations

import pytest
import torch

from kd_lightning.core.errors import MatchError
from kd_lightning.functional.squares import squared_distance, token_gram_distance


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


@pytest.mark.parametrize("own", [True, False], ids=["student's layer with itself", "two of the student's"])
@pytest.mark.parametrize("other", [True, False], ids=["teacher's layer with itself", "two of the teacher's"])
@pytest.mark.parametrize("axis", [1, 2])
def test_gram_matrices_of_tokens(own, other, axis):
    torch.manual_seed(0)
    a, b = (torch.randn(2, 4, 3, dtype=torch.double, requires_grad=True) for _ in range(2))
    c, d = (torch.randn(2, 4, 5, dtype=torch.double) for _ in range(2))
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])

    def wanted(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        second, third = a if own else b, c if other else d
        ours, theirs = (torch.einsum("bid,bjd->bij", x, y) / x.shape[axis] for x, y in ((a, second), (c, third)))
        gap = ours - theirs
        return (gap.square() * mask[:, :, None] * mask[:, None, :]).sum((1, 2))

    def found(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return token_gram_distance(a, None if own else b, c, None if other else d, mask, axis) + 0 * b.sum()

    weights = torch.randn(2, dtype=torch.double)
    torch.testing.assert_close(found(a, b), wanted(a, b))
    ours, theirs = (torch.autograd.grad((f(a, b) * weights).sum(), [a, b], allow_unused=True) for f in (found, wanted))
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], torch.zeros_like(b) if own else theirs[1])
    assert torch.autograd.gradcheck(found, (a, b))


def test_garbage_in_padding_reaches_no_gram_matrix():
    torch.manual_seed(0)
    clean, mask = torch.randn(1, 3, 2), torch.tensor([[1, 1, 0]])
    dirty = clean.clone()
    dirty[:, 2] = float("nan")
    results = []
    for x in (clean, dirty):
        student = x.clone().requires_grad_()
        value = token_gram_distance(student, None, 2 * x, None, mask)
        value.sum().backward()
        results.append((value, student.grad))
    torch.testing.assert_close(*results)
    assert results[1][1][0, 2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("distance", [squared_distance, lambda x, t: token_gram_distance(x, None, t, None)])
def test_a_gradient_of_the_gradient_is_refused_and_not_wrong(distance):
    student = torch.randn(2, 3, 4, requires_grad=True)
    with pytest.raises(MatchError, match=r"cannot run with create_graph=True. Use nn.MSELoss\(\)"):
        torch.autograd.grad(distance(student, torch.zeros(2, 3, 4)).sum(), student, create_graph=True)
