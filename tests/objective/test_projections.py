from __future__ import annotations

import pytest
import torch
from torch import nn

from kd_lightning.core.errors import MatchError
from kd_lightning.objective.projections import build_projection

ACTIVATIONS = {"linear": lambda x: x, "relu": lambda x: x.clamp(min=0), "tanh": torch.tanh}


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_a_projection_is_an_affine_map_and_its_activation(kind):
    torch.manual_seed(0)
    projection = build_projection(kind, 3, 5)
    weight, bias = projection.parameters()
    x = torch.randn(2, 4, 3)
    expected = ACTIVATIONS[kind](torch.einsum("bld,ed->ble", x, weight) + bias)
    torch.testing.assert_close(projection(x), expected)


def test_none_and_modules_pass_as_they_are():
    module = nn.Conv2d(3, 4, 1)
    assert build_projection(None, 3, 5) is None
    assert build_projection(module, None, None) is module


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(MatchError, match=r"'liner'. Closest: linear.*nn\.Module"):
        build_projection("liner", 3, 5)


@pytest.mark.parametrize(
    ("widths", "side"), [((None, 5), "student"), ((3, None), "teacher"), ((None, None), "student")]
)
def test_an_unknown_width_asks_for_a_module(widths, side):
    with pytest.raises(MatchError, match=rf"{side}.*Give an nn\.Module"):
        build_projection("linear", *widths)
