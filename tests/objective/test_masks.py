"""A feature's kind decides its mask, its projection and how it is aligned; where it is not known, address and shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kd_lightning as kd
from kd_lightning.core.errors import MatchError
from kd_lightning.core.types import FeatureInfo
from kd_lightning.objective.masks import feature_mask, has_token_axis, kind_of

MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])


class Info:
    """A model all of whose features are of one kind and width."""

    def __init__(self, kind: Any, width: int | None = 4) -> None:
        self.info = FeatureInfo(kind, width)

    def layers(self, stack: str = "") -> int:
        return 2

    def width(self, address: str) -> int | None:
        return self.info.width

    def feature(self, address: str) -> FeatureInfo:
        return self.info

    def check(self, addresses: Sequence[str]) -> None:
        """Every address is there."""


SHAPES: dict[Any, tuple[int, ...]] = {
    "tokens": (2, 3, 4),
    "heads": (2, 5, 3, 4),
    "attention": (2, 5, 3, 3),
    "positions": (2, 3),
    "classes": (2, 3, 4),
}
"""Of the kinds that have tokens: a batch of two rows of three."""


@pytest.mark.parametrize("kind", SHAPES)
def test_kinds_with_tokens_get_the_mask(kind):
    assert has_token_axis("somewhere", torch.zeros(SHAPES[kind]), MASK, kind)
    assert not has_token_axis("somewhere", torch.zeros(SHAPES[kind]), torch.ones(2, 9), kind)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("map", (2, 5, 3, 3)),
        ("queries", (2, 3, 4)),
        ("vector", (2, 3)),
        ("classes", (2, 3)),
        ("scalar", ()),
    ],
)
def test_kinds_without_tokens_get_none_though_their_shape_looks_like_it(kind, shape):
    assert feature_mask("somewhere", torch.zeros(shape), {"attention_mask": MASK}, kind) is None


def test_unlabelled_tokens_are_left_out_of_class_logits_wherever_they_are():
    batch = {"attention_mask": MASK, "labels": torch.tensor([[0, -100, 1], [2, 0, -100]])}
    found = feature_mask("classifier", torch.zeros(2, 3, 4), batch, "classes")
    assert found.int().tolist() == [[1, 0, 1], [1, 1, 0]]
    assert feature_mask("classifier", torch.zeros(2, 3, 4), batch) is MASK  # not known to be logits


@pytest.mark.parametrize(
    ("address", "shape", "kind"),
    [
        ("query.2", (2, 5, 3, 4), "heads"),
        ("a/key.2", (2, 5, 3, 4), "heads"),
        ("features.3", (2, 5, 3, 3), None),
        ("hidden.1", (2, 3, 4), "tokens"),
        ("a/end_logits", (2, 3), "positions"),
        ("loss", (), "scalar"),
    ],
)
def test_without_a_known_kind_address_and_shape_decide(address, shape, kind):
    assert kind_of(address, torch.zeros(shape)) == kind


class Keeps(nn.Module):
    def forward(self, student: Tensor, teacher: Tensor, mask: Any) -> Tensor:
        self.mask = mask
        return torch.zeros(())


@pytest.mark.parametrize(("kind", "masked"), [("map", False), ("attention", True), (None, True)])
def test_a_term_takes_the_kind_from_the_student(kind, masked):
    loss = Keeps()
    term = kd.Term(kd.Match("x", "x"), loss)
    term.bind("t", Info(kind), Info(kind))
    x = torch.zeros(2, 5, 3, 3)
    term({"x": x}, {"x": x}, {"attention_mask": MASK})
    assert (loss.mask is not None) == masked


@pytest.mark.parametrize(("kind", "fix"), [("map", "projection='conv'"), ("attention", "leave it out")])
def test_a_built_projection_of_what_has_no_width_last_is_an_error_when_bound(kind, fix):
    term = kd.Term(kd.Match("x", "x"), nn.MSELoss(), projection="linear")
    with pytest.raises(MatchError, match=rf"Term 't' \(x ← x\): .*kind '{kind}'.*{fix}"):
        term.bind("t", Info(kind), Info(kind))


def test_widths_that_differ_are_named_with_the_kind():
    with pytest.raises(MatchError, match=r"width is 4 and the teacher's 6 \(kind 'tokens'\)"):
        kd.Term(kd.Match("x", "x"), kd.losses.HiddenMSE()).bind("t", Info("tokens"), Info("tokens", 6))


def test_features_that_cannot_be_aligned_by_words_are_named_by_kind():
    ids = torch.tensor([[0, 1, -1], [0, 0, 1]])
    batch = {role: {"word_ids": ids, "attention_mask": MASK} for role in ("student", "teacher")}
    term = kd.Term(kd.Match("x", "x"), nn.MSELoss())
    x = torch.zeros(2, 5, 3, 3)
    term.bind("t", Info("attention"), Info("attention"))
    with pytest.raises(MatchError, match=r"across two tokenizers: 'x' has kind 'attention' and shape \(2, 5, 3, 3\)"):
        term({"x": x}, {"x": x}, batch)
    term.bind("t", Info("map"), Info("map"))
    assert term({"x": x}, {"x": x}, batch)[0] == 0
