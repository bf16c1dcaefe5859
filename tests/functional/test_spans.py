from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kd_lightning.functional.spans import best_spans


def by_trying_all(start: Tensor, end: Tensor, mask: Tensor, n: int, longest: int) -> list[tuple[float, int, int]]:
    places = range(len(mask))
    spans = [(i, j) for i in places for j in places if mask[i] and mask[j] and i <= j < i + longest]
    return sorted(((start[i] + end[j]).item(), i, j) for i, j in spans)[::-1][:n]


@pytest.mark.parametrize(("length", "n", "longest"), [(12, 5, 4), (12, 200, 30), (7, 3, 1), (1, 2, 3), (9, 1, 9)])
def test_spans_are_those_found_by_trying_all(length, n, longest):
    generator = torch.Generator().manual_seed(length)
    start, end = torch.randn(2, 6, length, generator=generator)
    mask = torch.rand(6, length, generator=generator) > 0.3
    mask[0] = False
    starts, ends, scores = best_spans(start, end, mask, n, longest)
    assert starts.shape == ends.shape == scores.shape == (6, n)
    for row in range(6):
        expected = by_trying_all(start[row], end[row], mask[row], n, longest)
        assert len(expected) == int((scores[row] > -torch.inf).sum())
        found = list(zip(scores[row].tolist(), starts[row].tolist(), ends[row].tolist(), strict=True))
        assert found[: len(expected)] == expected


def test_half_precision_logits_are_added_in_single_precision():
    start, end = torch.tensor([[256.0, 0.0]]).bfloat16(), torch.tensor([[1.0, 0.5]]).bfloat16()
    assert best_spans(start, end, torch.ones(1, 2), n=2)[2].tolist() == [[257.0, 256.5]]
