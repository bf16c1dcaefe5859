from __future__ import annotations

import math

import pytest
import torch

from kd_lightning.functional.softmax import cross_entropy, floored_log, kl_divergence, masked_log_softmax

INF = float("inf")


@pytest.mark.parametrize("garbage", [float("nan"), INF, -INF, 1e9, 0.0])
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
    assert cross_entropy(torch.tensor([0.5, 0.5]), torch.tensor([0.0, -INF])) == INF


def test_the_logarithm_has_a_floor() -> None:
    assert floored_log(torch.tensor([0.0, 1e-20, 1e-12, 1.0])).tolist() == pytest.approx(
        [math.log(1e-12)] * 3 + [0.0], rel=1e-6
    )
