from __future__ import annotations

import pytest
import torch

from kd_lightning.functional.hidden import first_token, fsp, hidden_cosine, hidden_mse, nst, pkd


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


@pytest.mark.parametrize("loss", [fsp, nst])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_padding_may_be_cut_off(loss: object, dtype: torch.dtype) -> None:
    student, teacher = ([torch.randn(2, 6, 3, dtype=dtype) for _ in range(2)] for _ in range(2))
    mask = torch.arange(6).expand(2, -1) < 4
    cut = [tuple(x[:, :4] for x in side) for side in (student, teacher)]
    torch.testing.assert_close(loss(tuple(student), tuple(teacher), mask), loss(*cut))


def test_nst_divided_by_length_depends_on_the_padding() -> None:
    pair, zero = (torch.ones(1, 2, 3),) * 2, (torch.zeros(1, 2, 3),) * 2
    assert nst(pair, zero) == 1.0
    assert nst(pair, zero, divide_by="length") == (3 / 2) ** 2


def test_fsp_compares_layers_of_different_widths_across_models_alike() -> None:
    student = (torch.randn(2, 4, 3), torch.randn(2, 4, 5))
    torch.testing.assert_close(fsp(student, student), torch.tensor(0.0))
