from __future__ import annotations

import pytest
import torch

from kd_lightning.functional.gram import fsp, nst


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
