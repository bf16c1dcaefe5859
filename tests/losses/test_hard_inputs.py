"""Inputs that break losses, and what must change nothing: one table of builders, a row for each loss on images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, smooth_l1_loss

from kd_lightning import losses
from kd_lightning.compat import mdistiller, mmrazor, repdistiller, torchdistill, zoo
from kd_lightning.core.errors import ConfigError, MatchError
from kd_lightning.core.types import FeatureInfo
from kd_lightning.features.state import margins
from kd_lightning.functional import chunks
from kd_lightning.functional.decoupled import split
from kd_lightning.functional.samples import squared_distances
from kd_lightning.losses.base import LossTraits, bind_loss

Side = tuple[Tensor, ...]
Shape = tuple[int, ...]

CLASSES = 5
LOGITS: tuple[Shape, ...] = ((CLASSES,),)
MAPS: tuple[tuple[Shape, ...], ...] = (((3, 4, 4),), ((5, 4, 4),))
SAME: tuple[Shape, ...] = ((4, 4, 4),)
ROWS: tuple[tuple[Shape, ...], ...] = (((6,),), ((7,),))
PAIRS: tuple[Shape, ...] = ((3, 4, 4), (4, 4, 4))
STAGES = (((3, 8, 8), (4, 4, 4), (4,)), ((5, 8, 8), (6, 4, 4), (6,)))
GRAPH = (((3, 4, 4), (6, 2, 2), (6,), (5,)), ((4, 4, 4), (8, 2, 2), (8,), (5,)))


@dataclass(frozen=True)
class Built:
    """A loss and the shapes of what it compares, without the batch."""

    name: str
    make: Callable[[], nn.Module]
    student: tuple[Shape, ...]
    teacher: tuple[Shape, ...]
    zero: bool = False
    """Whether equal features of student and teacher are no loss."""

    def __str__(self) -> str:
        return self.name

    def loss(self) -> nn.Module:
        """Return the loss, bound, with the same parameters each time."""
        torch.manual_seed(3)
        made = self.make()
        bind_loss(made, [info(shape) for shape in self.student], [info(shape) for shape in self.teacher])
        return made.train()

    def inputs(self, batch: int, seed: int = 0) -> tuple[Side, Side]:
        generator = torch.Generator().manual_seed(seed)
        sides = (self.student, self.teacher)
        student, teacher = (tuple(torch.randn(batch, *s, generator=generator) for s in side) for side in sides)
        return student, teacher

    def value(self, loss: nn.Module, student: Side, teacher: Side) -> Tensor:
        named = LossTraits.of(loss).arguments
        given: dict[str, Any] = {"labels": torch.arange(len(student[0])) % CLASSES} if "labels" in named else {}
        if len(student) == 1:
            return loss(student[0], teacher[0], **given)
        return loss(student, teacher, **given)


def info(shape: Shape) -> FeatureInfo:
    if len(shape) == 1:
        return FeatureInfo("vector", shape[0])
    return FeatureInfo("map", shape[0], module=nn.BatchNorm2d(shape[0]))


def row(loss: type, student: tuple[Shape, ...], teacher: tuple[Shape, ...] | None = None, **more: Any) -> Built:
    """Return a row; what the table does not know are options of the loss."""
    known = {key: more.pop(key) for key in ("zero",) if key in more}
    toolkit = loss.__module__.split(".")[2] if ".compat." in loss.__module__ else ""
    name = ".".join(filter(None, (toolkit, loss.__name__)))
    shown = "".join(f"-{key}={value}" for key, value in more.items() if not isinstance(value, Tensor))
    return Built(name + shown, lambda: loss(**more), student, teacher or student, **known)


BUILT = [
    row(losses.DKD, LOGITS, zero=True),
    row(losses.NKD, LOGITS),
    row(losses.WSLD, LOGITS, zero=True),
    row(mmrazor.WSLD, LOGITS),
    row(losses.TTM, LOGITS, temperature=1.0, zero=True),
    row(losses.TTM, LOGITS, weighted=True),
    row(losses.HardTeacher, LOGITS),
    row(losses.DIST, LOGITS, zero=True),
    row(torchdistill.DIST, LOGITS, zero=True),
    row(losses.LogitStandardized, LOGITS, zero=True),
    row(losses.WKDL, LOGITS, cost=1 - torch.eye(CLASSES), weight=2.0),
    row(losses.WKDL, LOGITS, cost=1 - torch.eye(CLASSES), weight=2.0, temperature=1.0, sharpen=2.0),
    row(losses.AttentionTransfer, *MAPS, zero=True),
    row(losses.AttentionTransfer, *MAPS, power=1, zero=True),
    row(losses.AttentionTransfer, *MAPS, power=3, zero=True),
    row(losses.AttentionTransfer, *MAPS, norm="l2", zero=True),
    row(zoo.AttentionTransfer, *MAPS, zero=True),
    row(losses.NSTMMD, *MAPS, zero=True),
    row(losses.NSTMMD, ((3, 1, 2),), ((5, 1, 2),), zero=True),
    row(losses.ChannelWise, SAME, zero=True),
    row(losses.ChannelWise, SAME, temperature=4.0, zero=True),
    row(torchdistill.FSP, PAIRS, zero=True),
    row(losses.AFD, SAME, zero=True),
    row(losses.VID, *MAPS),
    row(losses.VID, *ROWS),
    row(losses.Overhaul, *MAPS),
    row(zoo.Overhaul, *MAPS),
    row(losses.WKDF, *MAPS),
    row(losses.WKDF, *MAPS, grid=4),
    row(losses.WKDF, *MAPS, hidden=2),
    row(losses.MaskedGenerative, *MAPS),
    row(losses.MaskedGenerative, SAME, per="channel", masked=0.5),
    row(losses.ReviewKD, *STAGES),
    row(losses.VkD, ((6,),)),
    row(losses.RKDDistance, *ROWS, zero=True),
    row(zoo.RKDDistance, *ROWS, zero=True),
    row(mmrazor.RKDDistance, *ROWS, zero=True),
    row(losses.RKDAngle, *ROWS, zero=True),
    row(mmrazor.RKDAngle, *ROWS, zero=True),
    row(losses.SimilarityPreserving, *MAPS, zero=True),
    row(torchdistill.SimilarityPreserving, *MAPS, zero=True),
    row(losses.PKT, *ROWS, zero=True),
    row(zoo.PKT, *ROWS, zero=True),
    row(mdistiller.PKT, *ROWS, zero=True),
    row(losses.CorrelationCongruence, *ROWS, zero=True),
    row(torchdistill.CorrelationCongruence, *ROWS, zero=True),
    row(repdistiller.CorrelationCongruence, *ROWS),
    row(losses.IRG, *GRAPH, zero=True),
]

Change = Callable[[Tensor], Tensor]


def same_rows(count: int) -> Change:
    """Make the first rows equal."""
    return lambda x: torch.cat([x[:1].expand(count, *x.shape[1:]), x[count:]])


def peaked(x: Tensor) -> Tensor:
    """Let one entry of each row stand 120 above the others, in each row another one."""
    flat = torch.zeros_like(x).flatten(1)
    flat[torch.arange(len(x)), torch.arange(len(x)) % flat.shape[1]] = 120.0
    return flat.reshape(x.shape)


def nothing(x: Tensor) -> Tensor:
    return x


HARD: dict[str, tuple[int, Change, Change]] = {
    "one_sample": (1, nothing, nothing),
    "two_samples": (2, nothing, nothing),
    "twins": (4, same_rows(2), same_rows(2)),
    "twins_of_the_student": (4, same_rows(2), nothing),
    "all_equal": (4, same_rows(4), same_rows(4)),
    "opposite": (2, lambda x: torch.stack([x[0], -x[0]]), lambda x: torch.stack([x[0], -x[0]])),
    "zero_student": (4, torch.zeros_like, nothing),
    "zero_teacher": (4, nothing, torch.zeros_like),
    "zero": (4, torch.zeros_like, torch.zeros_like),
    "constant_student": (4, lambda x: torch.full_like(x, 3.0), nothing),
    "constant": (4, lambda x: torch.full_like(x, 3.0), lambda x: torch.full_like(x, -0.7)),
    "gaps": (4, lambda x: 120 * x.sign(), lambda x: 120 * x.sign()),
    "peaked_teacher": (4, nothing, peaked),
    "peaked_student": (4, peaked, nothing),
    "peaked_apart": (4, peaked, lambda x: peaked(x).flip(0)),
    "tiny": (4, lambda x: 1e-20 * x, lambda x: 1e-20 * x),
    "large": (4, lambda x: 1e4 * x, lambda x: 1e4 * x),
    "offset": (4, lambda x: x + 1e3, lambda x: x + 1e3),
    "bf16": (4, lambda x: x.bfloat16(), lambda x: x.bfloat16()),
}


@pytest.mark.parametrize("built", BUILT, ids=str)
def test_value_and_gradient_are_finite(built):
    for hard, (batch, of_student, of_teacher) in HARD.items():
        loss = built.loss()
        student, teacher = built.inputs(batch)
        student = tuple(of_student(x).clone().requires_grad_() for x in student)
        teacher = tuple(of_teacher(x).clone() for x in teacher)
        value = built.value(loss, student, teacher)
        value.backward()
        assert value.dtype == torch.float32, hard
        assert value.shape == (), hard
        assert value.isfinite(), hard
        assert all(x.grad is not None and x.grad.isfinite().all() for x in student), hard
        assert all(p.grad is None or p.grad.isfinite().all() for p in loss.parameters()), hard


@pytest.mark.parametrize("built", BUILT, ids=str)
def test_bf16_is_compared_in_float32(built):
    """The value of bf16 features is that of the same numbers in float32."""
    student, teacher = (tuple(x.bfloat16() for x in side) for side in built.inputs(4))
    wide = (tuple(x.float() for x in side) for side in (student, teacher))
    torch.testing.assert_close(built.value(built.loss(), student, teacher), built.value(built.loss(), *wide))


@pytest.mark.parametrize("built", [built for built in BUILT if built.zero], ids=str)
def test_equal_features_are_no_loss(built):
    student, _ = built.inputs(4)
    assert built.value(built.loss(), student, student).item() == pytest.approx(0.0, abs=2e-6)


HOT = [losses.DKD, losses.NKD, losses.WSLD, losses.TTM, losses.DIST, losses.LogitStandardized]


@pytest.mark.parametrize("loss", HOT)
def test_high_temperatures_change_no_precision(loss):
    """Above some temperature there is float64 inside: digits are right, and the value float32 all the same."""
    built = row(loss, LOGITS, temperature=1000.0)
    sides = built.inputs(4)
    exact = built.value(built.loss(), *(tuple(x.double() for x in side) for side in sides))
    found = built.value(built.loss(), *sides)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("loss", HOT)
def test_one_class_teaches_nothing(loss):
    built = row(loss, ((1,),))
    with pytest.raises(MatchError, match="class"):
        built.value(built.loss(), *built.inputs(1))


@pytest.mark.parametrize("loss", [losses.RKDAngle, mmrazor.RKDAngle])
def test_angles_of_many_samples_are_those_of_a_few_vertices_at_a_time(loss, monkeypatch):
    student, teacher = row(loss, *ROWS).inputs(9)
    found = []
    for size in (chunks.CHUNK, 200):
        monkeypatch.setattr(chunks, "CHUNK", size)
        own = student[0].clone().requires_grad_()
        value = loss()(own, *teacher)
        found.append((value.detach(), *torch.autograd.grad(value, own)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(("apart", "counts"), [(1e-3, True), (1e-9, False)])
def test_nearly_equal_samples_have_a_direction_until_they_are_a_millionth_apart(apart, counts):
    """Below that there is none, where the gradient would be that of a quotient of rounding errors."""
    student, teacher = (side[0].double() for side in row(losses.RKDAngle, *ROWS).inputs(4))
    student[1] = student[0] + apart * student[2]
    own = student.clone().requires_grad_()
    value = losses.RKDAngle()(own, teacher)
    (gradient,) = torch.autograd.grad(value, own)
    directions = (normalize(x[None] - x[:, None], dim=-1) for x in (student, teacher))
    cosines = [d @ d.mT for d in directions]
    plain = smooth_l1_loss(*cosines)
    assert (abs(value.item() - plain.item()) < 1e-12) == counts
    assert gradient.abs().max() < (100.0 if counts else 1.0)


def test_a_common_offset_costs_distances_no_digits():
    rows = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)) + 100
    exact = torch.cdist(rows.double(), rows.double()).square().float()
    torch.testing.assert_close(squared_distances(rows), exact, rtol=1e-5, atol=1e-5)


REFUSED = [
    *(("power", partial(losses.AttentionTransfer, power=power)) for power in (0, 0.5, -1)),
    ("variance", partial(losses.VID, variance=1e-6)),
    ("reduction", partial(losses.AFD, reduction=0)),
    ("grid", partial(losses.WKDF, grid=0)),
    ("hidden", partial(losses.WKDF, hidden=0)),
    ("masked", partial(losses.MaskedGenerative, masked=1.0)),
    ("iterations", partial(losses.WKDL, iterations=0)),
    ("cost.* is none", partial(losses.WKDL, cost="clasifier")),
    ("cost", partial(losses.WKDL, cost=torch.zeros(2, 3))),
    ("gamma", partial(losses.CorrelationCongruence, gamma=0.0)),
    ("kernel", partial(torchdistill.CorrelationCongruence, kernel="linear")),
]


@pytest.mark.parametrize(("name", "make"), REFUSED, ids=lambda x: x if isinstance(x, str) else "")
def test_options_without_a_meaning_are_refused(name, make):
    with pytest.raises(ConfigError, match=name):
        make()


@pytest.mark.parametrize("variance", [1e-4, 5.0, 1e4])
def test_variances_begin_where_they_are_told_to(variance):
    loss: Any = losses.VID(variance=variance)
    bind_loss(loss, [FeatureInfo("map", 3)], [FeatureInfo("map", 5)])
    found = torch.nn.functional.softplus(loss.stages[0].spread) + loss.eps
    torch.testing.assert_close(found.detach(), torch.full((5,), variance))


def turned(x: Tensor) -> Tensor:
    """Turn all rows the same way."""
    torch.manual_seed(5)
    return x @ torch.linalg.qr(torch.randn(x.shape[1], x.shape[1], dtype=x.dtype))[0]


def positive(*shape: int) -> Tensor:
    return torch.linspace(0.3, 4.0, torch.Size(shape).numel()).reshape(shape).double()


def times(*shape: int) -> Change:
    return lambda x: x * positive(*shape)


def plus(*shape: int) -> Change:
    return lambda x: x + 3 * positive(*shape)


def both(first: Change, second: Change) -> Change:
    return lambda x: second(first(x))


def swapped(x: Tensor) -> Tensor:
    return x.roll(1, dims=1)


BY_ROW = times(4, 1)
UNCHANGED: list[tuple[str, Change, Change]] = [
    *((name, plus(1, 6), plus(1, 7)) for name in ("RKDDistance", "RKDAngle")),
    *((name, turned, turned) for name in ("RKDDistance", "RKDAngle", "PKT", "CorrelationCongruence")),
    *((name, lambda x: 7 * x, lambda x: x / 30) for name in ("RKDDistance", "RKDAngle")),
    *((name, BY_ROW, BY_ROW) for name in ("PKT", "CorrelationCongruence", "mmrazor.RKDDistance", "mmrazor.RKDAngle")),
    *((name, lambda x: 7 * x, lambda x: x / 30) for name in ("AttentionTransfer", "SimilarityPreserving", "NSTMMD")),
    *((name, swapped, swapped) for name in ("AttentionTransfer", "NSTMMD", "SimilarityPreserving")),
    ("NSTMMD", times(1, 3, 1, 1), times(1, 5, 1, 1)),
    ("AFD", times(4, 4, 1, 1), nothing),
    ("ChannelWise", plus(4, 4, 1, 1), plus(4, 4, 1, 1)),
    ("LogitStandardized", both(BY_ROW, plus(4, 1)), both(plus(4, 1), BY_ROW)),
    *((name, plus(4, 1), plus(4, 1)) for name in ("DKD", "NKD", "WSLD", "TTM-weighted=True", "DIST", "HardTeacher")),
    ("VkD", nothing, both(BY_ROW, plus(4, 1))),
]


@pytest.mark.parametrize(("name", "of_student", "of_teacher"), UNCHANGED, ids=lambda x: x if isinstance(x, str) else "")
def test_what_a_loss_does_not_see_changes_nothing(name, of_student, of_teacher):
    built = next(built for built in BUILT if built.name == name)
    loss = built.loss().double()
    sides = [tuple(x.double() for x in side) for side in built.inputs(4)]
    before = built.value(loss, *sides)
    student, teacher = (tuple(map(f, x)) for f, x in zip((of_student, of_teacher), sides, strict=True))
    assert not torch.equal(teacher[0], sides[1][0]) or not torch.equal(student[0], sides[0][0])
    assert before > 1e-4
    assert float(built.value(loss, student, teacher).detach()) == pytest.approx(before.item(), rel=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_decoupled_parts_are_the_divergence(temperature):
    """KL = TCKD + (1 − p_t,y) · NCKD, row by row."""
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(6, CLASSES).double(), 3 * torch.randn(6, CLASSES).double()
    for k in range(CLASSES):
        for s, t in zip(student.split(1), teacher.split(1), strict=True):
            labels = torch.tensor([k])
            target, others = (
                losses.DKD(temperature, alpha, beta)(s, t, labels=labels) for alpha, beta in ((1.0, 0.0), (0.0, 1.0))
            )
            rest = split(t / temperature, labels)[1].exp()
            torch.testing.assert_close(target + rest.item() * others, losses.SoftTarget(temperature)(s, t))


def test_of_two_classes_there_are_no_others():
    torch.manual_seed(0)
    student, teacher, labels = torch.randn(6, 2), torch.randn(6, 2), torch.arange(6) % 2
    assert losses.DKD(alpha=0.0)(student, teacher, labels=labels) == 0
    torch.testing.assert_close(
        losses.DKD(temperature=2.0)(student, teacher, labels=labels), losses.SoftTarget(2.0)(student, teacher)
    )


def test_values_below_the_margin_count_for_nothing():
    """OFD asks of a value that the teacher cuts off no more than to stay below the margin."""
    built = next(built for built in BUILT if built.name == "Overhaul")
    loss: Any = built.loss()
    stage = loss.stages[0]
    stage.connector = nn.Conv2d(5, 5, 1, bias=False)
    nn.init.dirac_(stage.connector.weight)
    (teacher,) = built.inputs(4)[1]
    cut = teacher <= stage.margins[:, None, None]
    student = torch.where(cut, stage.margins[:, None, None] - 0.1, teacher + 0.5)
    assert cut.any()
    lower = torch.where(cut, student - 9, student)
    assert stage(student, teacher) == stage(lower, teacher)
    assert stage(torch.where(cut, student + 0.2, student), teacher) > stage(student, teacher)
    assert stage(student, torch.where(cut, teacher - 9, teacher)) == stage(student, teacher)


def test_margins_are_means_of_the_negative_values_of_normal_variables():
    norm = nn.BatchNorm2d(4)
    norm.weight.data = torch.tensor([1.0, -0.7, 0.5, 1.5])
    norm.bias.data = torch.tensor([0.3, -0.4, 0.0, -1.0])
    generator = torch.Generator().manual_seed(0)
    drawn = norm.bias + norm.weight * torch.randn(1_000_000, 4, generator=generator)
    sampled = drawn.clamp(max=0).sum(0) / (drawn < 0).sum(0)
    torch.testing.assert_close(margins(norm, "").float(), sampled, rtol=0, atol=3e-3)


def test_margins_of_channels_that_are_hardly_ever_negative():
    """Three standard deviations below zero, as in the authors' code; 0 for a channel that does not vary."""
    norm = nn.BatchNorm2d(2)
    norm.weight.data, norm.bias.data = torch.tensor([0.2, 0.0]), torch.tensor([1.0, 1.0])
    torch.testing.assert_close(margins(norm, "").float().detach(), torch.tensor([-0.6, 0.0]))


def test_every_loss_on_images_has_a_row():
    """Those of the library and of the toolkits that are built from the same parts."""
    shown = {built.name.split("-")[0] for built in BUILT}
    ours = {
        name
        for name in losses.__all__
        if getattr(losses, name).__module__.startswith(("kd_lightning.losses.maps", "kd_lightning.losses.relations"))
    }
    toolkits = {"zoo": zoo, "mdistiller": mdistiller, "mmrazor": mmrazor, "torchdistill": torchdistill}
    theirs = {
        f"{toolkit}.{name}"
        for toolkit, module in {**toolkits, "repdistiller": repdistiller}.items()
        for name in module.__all__
        if getattr(module, name).__module__ == module.__name__
    }
    assert not (ours | theirs) - shown
