"""Boxes against loops over plain numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kd_lightning.functional.boxes import area, generalized_iou, iou, to_centres, to_corners

EDGE = st.floats(0, 1, width=32)
BOX = st.tuples(EDGE, EDGE, EDGE, EDGE).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


def by_hand(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, float]:
    """Return IoU and GIoU of two boxes in double precision."""
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = wide * high
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    around = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    overlap = shared / union if union > 0 else 0.0
    return overlap, overlap - ((around - union) / around if around > 0 else 0.0)


@given(one=BOX, other=BOX)
def test_overlaps_are_those_of_a_loop(one, other):
    a, b = torch.tensor([one, other], dtype=torch.float64)
    expected = by_hand(one, other)
    assert (float(iou(a, b)), float(generalized_iou(a, b))) == pytest.approx(expected, abs=1e-9)


@given(box=BOX)
def test_a_box_covers_itself_and_centres_are_the_inverse_of_corners(box):
    corners = torch.tensor(box, dtype=torch.float64)
    assert torch.allclose(to_corners(to_centres(corners)), corners)
    if area(corners) > 0:
        assert (float(iou(corners, corners)), float(generalized_iou(corners, corners))) == (1.0, 1.0)


def test_all_with_all_by_broadcasting():
    boxes = torch.rand(5, 2, generator=torch.Generator().manual_seed(0)).repeat(1, 2) + torch.tensor(
        [0.0, 0.0, 0.4, 0.3]
    )
    table = generalized_iou(boxes[:, None], boxes[:3])
    assert table.shape == (5, 3)
    assert torch.equal(table[4, 1], generalized_iou(boxes[4], boxes[1]))


@pytest.mark.parametrize("function", [iou, generalized_iou])
def test_gradients_are_right_and_finite_where_boxes_have_no_area(function):
    boxes = torch.tensor([[0.1, 0.2, 0.6, 0.7], [0.3, 0.1, 0.9, 0.5], [0.7, 0.8, 0.9, 0.95]], dtype=torch.float64)
    other = torch.tensor([0.2, 0.3, 0.75, 0.65], dtype=torch.float64)
    assert torch.autograd.gradcheck(function, (boxes.requires_grad_(), other))
    nothing = torch.full((2, 4), 0.5, requires_grad=True)
    function(nothing, nothing.detach()).sum().backward()
    assert nothing.grad is not None
    assert nothing.grad.isfinite().all()


def test_low_precision_is_widened():
    box = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.bfloat16)
    assert iou(box, box).dtype == torch.float32
