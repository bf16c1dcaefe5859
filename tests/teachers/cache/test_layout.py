from __future__ import annotations

import numpy as np
import pytest
import torch

from kd_lightning.core.errors import CacheError
from kd_lightning.teachers.cache.columns import Layout, check_same, spans_of

MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])


@pytest.mark.parametrize(
    ("kind", "shape", "dims"),
    [
        ("tokens", (2, 3, 3), (None, 3)),
        ("tokens", (2, 4, 3), (4, 3)),  # of a decoder, whose tokens the mask does not count
        ("classes", (2, 3), (3,)),
        ("classes", (2, 3, 3), (None, 3)),
        ("positions", (2, 3), (None,)),
        ("positions", (2, 4), (4,)),
        ("attention", (2, 3, 3, 3), (3, None, None)),
        ("attention", (2, 2, 3, 5), (2, None, 5)),
        ("heads", (2, 3, 3, 3), (3, None, 3)),
        ("map", (2, 3, 3, 3), (3, 3, 3)),
        ("vector", (2, 3), (3,)),
        ("queries", (2, 3, 4), (3, 4)),
        (None, (2, 3), (3,)),
        (None, (2, 3, 5), (None, 5)),
        (None, (2, 7, 5), (7, 5)),
        (None, (2, 5, 4, 4), (5, 4, 4)),
        (None, (2, 2, 3, 5), (2, None, 5)),
        (None, (2,), ()),
    ],
)
def test_kind_and_mask_tell_which_axes_run_over_tokens(kind, shape, dims):
    assert Layout.of(kind, torch.ones(shape), MASK).dims == dims
    assert Layout.of(kind, torch.ones(shape), None).dims == shape[1:]


def test_an_unknown_square_is_attention_if_nothing_attends_to_padding():
    square = torch.ones(2, 2, 3, 3)
    assert Layout.of(None, square, MASK).dims == (2, None, 3)
    square[1, :, :, 2] = 0
    assert Layout.of(None, square, MASK).dims == (2, None, None)


def test_spans_run_from_the_first_token_to_the_last():
    mask = torch.tensor([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]])
    assert spans_of(mask, 4) == [(1, 3), (0, 0), (0, 5), (4, 1)]
    assert spans_of(None, 2) == [(0, 0), (0, 0)]


def test_cut_rows_have_the_announced_size():
    layout, spans = Layout((2, None, None)), [(0, 3), (1, 2)]
    blocks = layout.cut(torch.arange(2 * 2 * 9).reshape(2, 2, 3, 3), spans, [0, 1])
    assert [len(block) for block in blocks] == layout.sizes(np.array([3, 2])).tolist() == [18, 8]
    assert blocks[1].tolist() == [22, 23, 25, 26, 31, 32, 34, 35]
    assert layout.shape(2) == (2, 2, 2)


def test_rows_of_another_shape_raise_an_error():
    check_same("hidden.1", Layout((None, 3)), Layout((None, 3)))
    with pytest.raises(CacheError, match=r"'x' has rows of shape \[4\] in one batch and \[3\] in another"):
        check_same("x", Layout((3,)), Layout((4,)))
