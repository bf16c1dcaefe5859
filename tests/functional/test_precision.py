from __future__ import annotations

import pytest
import torch

from kd_lightning.functional.precision import matmul, widen


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.int64, torch.float32),
    ],
)
def test_widen_gives_at_least_float32_and_never_narrows(given: torch.dtype, expected: torch.dtype) -> None:
    assert widen(torch.zeros(2, dtype=given)).dtype == expected


def test_widen_keeps_the_gradient() -> None:
    x = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    widen(x).sum().backward()
    assert x.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_is_exact_inside_autocast(dtype: torch.dtype) -> None:
    a, b = torch.randn(3, 4, dtype=dtype), torch.randn(4, 5, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        product = matmul(a, b)
    assert torch.equal(product, a @ b)
