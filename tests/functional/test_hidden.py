from __future__ import annotations

import pytest
import torch

from kd_lightning.functional.hidden import first_token, hidden_cosine, hidden_mse, pkd


def test_the_first_token_is_found_behind_padding_on_the_left() -> None:
    hidden = torch.randn(3, 4, 2)
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 1]])
    torch.testing.assert_close(first_token(hidden, mask), torch.stack([hidden[0, 2], hidden[1, 0], hidden[2, 3]]))


def test_without_a_mask_the_first_token_is_position_zero() -> None:
    hidden = torch.randn(3, 4, 2)
    torch.testing.assert_close(first_token(hidden, None), hidden[:, 0])


@pytest.mark.parametrize("loss", [hidden_mse, hidden_cosine, pkd])
def test_one_vector_per_sample_has_no_tokens_to_mask(loss: object) -> None:
    student, teacher = torch.randn(2, 5), torch.randn(2, 5)
    assert loss(student, teacher, torch.zeros(2, 7)) == loss(student, teacher)
    torch.testing.assert_close(loss(student, teacher), loss(student[:, None], teacher[:, None]))


@pytest.mark.parametrize("loss", [hidden_mse, hidden_cosine, pkd])
def test_a_zero_vector_has_a_finite_gradient(loss: object) -> None:
    student = torch.zeros(1, 2, 3, requires_grad=True)
    loss(student, torch.ones(1, 2, 3)).backward()
    assert student.grad.isfinite().all()


def test_pkd_is_twice_the_cosine_loss_of_the_first_token() -> None:
    student, teacher = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    torch.testing.assert_close(pkd(student, teacher), 2 * hidden_cosine(student[:, 0], teacher[:, 0]))
