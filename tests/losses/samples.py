"""Inputs of losses, for the table of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

BATCH, LENGTH, CLASSES, WIDTH, HEADS = 4, 4, 3, 4, 2
SEED = 7
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]])
"""Full, right padded, padded on both sides, empty."""


@dataclass(frozen=True)
class Sample:
    """What a loss is called with: a list of one tensor for each side, or of several for losses that compare those.

    Args:
        student: the student's tensors.
        teacher: the teacher's, or labels.
        mask: (B, L), for features of tokens.
        padding: function of a tensor that tells which of its entries are padding.
        labels: for losses that need them beside the teacher.
        sample_id: for losses that make random choices.
        addresses: where in a model the student's tensors would be.
        target: the field of the batch that stands in the teacher's place; None: the teacher's tensors are features.

    """

    student: list[Tensor]
    teacher: list[Tensor]
    mask: Tensor | None = None
    padding: Callable[[Tensor], Tensor] | None = None
    labels: Tensor | None = None
    sample_id: Tensor | None = None
    addresses: tuple[str, ...] = ("logits",)
    target: str | None = None

    def sides(self) -> list[Any]:
        """Return what stands for the student and the teacher: a tensor, or a tuple of several."""
        return [tuple(side) if len(side) > 1 else side[0] for side in (self.student, self.teacher)]

    def given(self) -> dict[str, Any]:
        """Return what is passed by name."""
        fields = {"mask": self.mask, "labels": self.labels, "sample_id": self.sample_id}
        given: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
        return given | ({} if self.sample_id is None else {"seed": SEED})

    def apply(self, function: Callable[..., Any]) -> Any:
        """Call a loss, or its `count`, with all that it gets."""
        return function(*self.sides(), **self.given())

    def map(self, function: Callable[[Tensor], Tensor]) -> Sample:
        """Apply a function to all floating tensors."""
        sides = [[function(x) if x.is_floating_point() else x for x in side] for side in (self.student, self.teacher)]
        return replace(self, student=sides[0], teacher=sides[1])

    def double(self) -> Sample:
        return self.map(lambda x: x.detach().double())

    def requires_grad(self) -> Sample:
        return self.map(lambda x: x.detach().clone().requires_grad_())

    def slice(self, part: slice | Tensor) -> Sample:
        """Return some of the rows."""
        cut = lambda x: None if x is None else x[part]  # noqa: E731
        mask = cut(self.mask)
        padding = self.padding and partial(_padding_of, kind=self.padding.keywords["kind"], mask=mask)
        student, teacher = ([x[part] for x in side] for side in (self.student, self.teacher))
        more = {"labels": cut(self.labels), "sample_id": cut(self.sample_id)}
        return replace(self, student=student, teacher=teacher, mask=mask, padding=padding, **more)


def _padding_of(x: Tensor, kind: str, mask: Tensor) -> Tensor:
    """Return which entries of a tensor are padding, by what its axes mean."""
    pad = ~mask.bool()
    if kind == "span":
        return pad.expand_as(x)
    if kind in ("tokens", "hidden"):
        return pad[..., None].expand_as(x)
    if kind == "attention":
        return (pad[:, None, :, None] | pad[:, None, None, :]).expand_as(x)
    return pad[:, None, :, None].expand_as(x)


def _float_sides(seed: int, student: list[tuple[int, ...]], teacher: list[tuple[int, ...]]) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda shape: torch.randn(shape, generator=generator)  # noqa: E731
    return [draw(shape) for shape in student], [draw(shape) for shape in teacher]


ADDRESSES = {
    "span": ("start_logits",),
    "tokens": ("logits",),
    "hidden": ("hidden.1", "hidden.2"),
    "attention": ("attention.1",),
    "heads": ("query.1",),
}


def _sample(
    kind: str, student: list[Tensor], teacher: list[Tensor], masked: bool = True, target: str | None = None
) -> Sample:
    mask, padding = (MASK, partial(_padding_of, kind=kind, mask=MASK)) if masked else (None, None)
    return Sample(student, teacher, mask, padding, addresses=ADDRESSES[kind][: len(student)], target=target)


def scalar(seed: int) -> Sample:
    return Sample(*_float_sides(seed, [()], [()]), addresses=("loss",))


def logits(seed: int) -> Sample:
    return Sample(*_float_sides(seed, [(BATCH, CLASSES)], [(BATCH, CLASSES)]))


def token_logits(seed: int) -> Sample:
    shape = (BATCH, LENGTH, CLASSES)
    return _sample("tokens", *_float_sides(seed, [shape], [shape]))


def span_logits(seed: int) -> Sample:
    shape = (BATCH, LENGTH)
    return _sample("span", *_float_sides(seed, [shape], [shape]))


ROW_LABELS = torch.tensor([2, -100, 0, 1])
TOKEN_LABELS = torch.tensor([[0, 1, -100, 2], [2, 2, 1, 0], [1, -100, 0, 2], [0, 1, 2, 0]])
POSITIONS = torch.tensor([3, 0, 2, 1])


def with_labels(seed: int, sample: Callable[[int], Sample], labels: Tensor) -> Sample:
    return replace(sample(seed), labels=labels)


def labelled(seed: int) -> Sample:
    student, _ = _float_sides(seed, [(BATCH, CLASSES)], [])
    return Sample(student, [ROW_LABELS], target="labels")


def labelled_tokens(seed: int) -> Sample:
    student, _ = _float_sides(seed, [(BATCH, LENGTH, CLASSES)], [])
    return _sample("tokens", student, [TOKEN_LABELS], target="labels")


def labelled_spans(seed: int) -> Sample:
    student, _ = _float_sides(seed, [(BATCH, LENGTH)], [])
    return _sample("span", student, [torch.tensor([3, 0, LENGTH, 1])], target="start_positions")


def valued(seed: int) -> Sample:
    student, _ = _float_sides(seed, [(BATCH, 1)], [])
    return Sample(student, [torch.tensor([0.5, 5.0, -100.0, 2.25])], target="labels")


def values(seed: int) -> Sample:
    return Sample(*_float_sides(seed, [(BATCH, 1)], [(BATCH, 1)]))


def multilabelled(seed: int) -> Sample:
    student, _ = _float_sides(seed, [(BATCH, CLASSES)], [])
    labels = torch.tensor([[0, 1, 1], [1, -100, 0], [0, 0, 0], [-100, -100, 1]])
    return Sample(student, [labels], target="labels")


def multilabelled_tokens(seed: int) -> Sample:
    student, _ = _float_sides(seed, [(BATCH, LENGTH, CLASSES)], [])
    labels = torch.randint(0, 2, (BATCH, LENGTH, CLASSES), generator=torch.Generator().manual_seed(seed))
    return _sample("tokens", student, [labels], target="labels")


def hidden(seed: int, masked: bool = True) -> Sample:
    shape = (BATCH, LENGTH, WIDTH)
    return _sample("hidden", *_float_sides(seed, [shape], [shape]), masked=masked)


def layer_pair(seed: int, student: tuple[int, int] = (3, 4), teacher: tuple[int, int] = (3, 4)) -> Sample:
    sides = _float_sides(seed, *([(BATCH, LENGTH, width) for width in widths] for widths in (student, teacher)))
    return _sample("hidden", *sides)


def crossed_layers(seed: int) -> Sample:
    """The student's first layer resembles the teacher's second, and the other way round, on every row."""
    shape = (BATCH, LENGTH, WIDTH)
    (first, second), noise = _float_sides(seed, [shape, shape], [shape, shape])
    near = [x + 0.3 * y for x, y in zip((second + 9, first - 9), noise, strict=True)]
    return _sample("hidden", [first - 9, second + 9], near)


def scores(seed: int, student_heads: int = HEADS, masked: bool = True) -> Sample:
    shapes = [[(BATCH, heads, LENGTH, LENGTH)] for heads in (student_heads, HEADS)]
    return _sample("attention", *_float_sides(seed, *shapes), masked=masked)


def attention(seed: int, student_heads: int = HEADS, masked: bool = True) -> Sample:
    """Probabilities as a model gives them: rows sum to one over the unmasked keys."""
    raw = scores(seed, student_heads, masked)
    if not masked:
        return raw.map(lambda x: x.softmax(-1))
    # An empty row is uniform.
    return raw.map(lambda x: x.masked_fill(~MASK.bool()[:, None, None, :], -1e4).softmax(-1))


def heads(seed: int) -> Sample:
    """Queries, keys or values: fewer and narrower heads in the student."""
    return _sample("heads", *_float_sides(seed, [(BATCH, 2, LENGTH, 2)], [(BATCH, 4, LENGTH, 3)]))


def two_heads(seed: int) -> Sample:
    """Queries and keys, as of `heads`."""
    sides = _float_sides(seed, [(BATCH, 2, LENGTH, 2)] * 2, [(BATCH, 4, LENGTH, 3)] * 2)
    return replace(_sample("heads", *sides), addresses=("query.1", "key.1"))


def features(
    seed: int, student: list[tuple[int, ...]], teacher: list[tuple[int, ...]], addresses: tuple[str, ...] = ()
) -> Sample:
    """Maps (C, H, W), vectors (D) and logits, given by their shapes without the batch; of stages unless it is said."""
    shapes = [[(BATCH, *shape) for shape in side] for side in (student, teacher)]
    names = tuple(f"stages.{k}" if len(shape) == 3 else "pool" for k, shape in enumerate(student, start=1))
    return Sample(*_float_sides(seed, *shapes), addresses=addresses or names)


def with_ids(seed: int, sample: Callable[[int], Sample]) -> Sample:
    """The rows of a data set that a batch may hold in any order."""
    return replace(sample(seed), sample_id=torch.tensor([11, 3, 250, 4]))
