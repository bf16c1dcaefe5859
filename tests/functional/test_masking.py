from __future__ import annotations

import math

import pytest
import torch

from kd_lightning.functional.masking import (
    blank,
    count,
    cross_entropy,
    floored_log,
    kl_divergence,
    masked_log_softmax,
    masked_mean,
    token_pairs,
)

GARBAGE = [float("nan"), float("inf"), -float("inf"), 1e9]


def test_masked_mean_is_the_mean_of_what_is_kept() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 10.0]])
    assert masked_mean(values, torch.tensor([[1, 1], [1, 0]])) == 2.0


def test_a_mask_over_the_first_axes_keeps_whole_rows() -> None:
    values = torch.arange(24.0).reshape(2, 3, 4)
    mask = torch.tensor([[1, 0, 1], [0, 0, 1]])
    assert masked_mean(values, mask) == values[mask.bool()].mean()


def test_no_mask_means_everything() -> None:
    values = torch.randn(2, 3)
    torch.testing.assert_close(masked_mean(values), values.mean())


@pytest.mark.parametrize("mask", [torch.zeros(3), torch.zeros(3, 2)], ids=["rows", "entries"])
def test_an_empty_mask_gives_a_differentiable_zero(mask: torch.Tensor) -> None:
    values = torch.full((3, 2), float("nan"), requires_grad=True)
    mean = masked_mean(values, mask)
    mean.backward()
    assert mean == 0
    assert (values.grad == 0).all()


def test_the_mean_of_nothing_at_all_is_a_differentiable_zero() -> None:
    values = torch.zeros(0, 3, requires_grad=True)
    mean = masked_mean(values)
    mean.backward()
    assert mean == 0


@pytest.mark.parametrize("garbage", GARBAGE)
def test_blank_stops_garbage_and_its_gradient(garbage: float) -> None:
    x = torch.tensor([[1.0, 2.0], [garbage, garbage]], requires_grad=True)
    blank(x, torch.tensor([1, 0])).square().sum().backward()
    assert x.grad.tolist() == [[2.0, 4.0], [0.0, 0.0]]


def test_blank_without_a_mask_is_the_tensor_itself() -> None:
    x = torch.randn(2)
    assert blank(x, None) is x


def test_pairs_are_those_of_real_tokens_of_one_sample() -> None:
    pairs = token_pairs(torch.tensor([[0, 1, 1], [1, 0, 0]]))
    assert pairs.int().tolist() == [
        [[0, 0, 0], [0, 1, 1], [0, 1, 1]],
        [[1, 0, 0], [0, 0, 0], [0, 0, 0]],
    ]


def test_count_is_a_float_scalar_of_what_is_unmasked() -> None:
    x = torch.zeros(2, 3, 4)
    assert count(x, None, x.shape[:2]) == 6
    assert count(x, torch.tensor([[1, 0, 1], [0, 0, 1]]), x.shape[:2]) == 3
    assert count(x, torch.zeros(2, 3), x.shape[:2]).dtype == torch.float32


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -float("inf"), 1e9, 0.0])
def test_masked_entries_have_no_share_and_no_gradient(garbage: float) -> None:
    x = torch.tensor([1.0, 2.0, garbage], requires_grad=True)
    p = masked_log_softmax(x, torch.tensor([1, 1, 0])).exp()
    torch.testing.assert_close(p, torch.cat([x[:2].detach().softmax(0), torch.zeros(1)]))
    p[0].backward()
    assert x.grad.isfinite().all()
    assert x.grad[2] == 0


def test_a_row_without_entries_is_finite() -> None:
    x = torch.full((3,), float("nan"), requires_grad=True)
    masked_log_softmax(x, torch.zeros(3)).exp().sum().backward()
    assert (x.grad == 0).all()


def test_divergences_of_known_distributions() -> None:
    p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.25, 0.75, 0.0])
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    torch.testing.assert_close(kl_divergence(p, p.log(), q.log()), torch.tensor(expected))
    torch.testing.assert_close(cross_entropy(p, q.log()), torch.tensor(expected + math.log(2)))


def test_what_the_student_excludes_but_the_teacher_wants_is_infinite() -> None:
    assert cross_entropy(torch.tensor([0.5, 0.5]), torch.tensor([0.0, -float("inf")])) == float("inf")


def test_the_logarithm_has_a_floor() -> None:
    assert floored_log(torch.tensor([0.0, 1e-20, 1e-12, 1.0])).tolist() == pytest.approx(
        [math.log(1e-12)] * 3 + [0.0], rel=1e-6
    )
