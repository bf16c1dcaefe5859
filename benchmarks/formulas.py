"""Two losses as their references compute them, written from the formulas, beside ours.

NST (Huang & Wang 2017): the public implementations (KD-Zoo, mdistiller) multiply every two channels of a sample pixel
by pixel, (B, C, C', HW), then sum over the pixels. RKD's angles (Park et al. 2019, whose code all the zoos follow):
differences of every two samples, (B, B, D), normalised, and at each vertex their products, (B, B, B).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import normalize, smooth_l1_loss

from benchmarks.timing import Contender
from kd_lightning.functional.samples import rkd_angle
from kd_lightning.functional.selectivity import nst_mmd

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]

NST, NST_PUBLISHED = "NST, ours", "NST, as published"
ANGLE, ANGLE_PUBLISHED = "RKD angle, ours", "RKD angle, as published"

TOLERANCE = 1e-3
"""The share by which gradients may differ: the sums are taken in another order."""


def published_nst(student: Tensor, teacher: Tensor) -> Tensor:
    """Return mean k(t, t) + mean k(s, s) − 2 mean k(s, t) with k(a, b) = ⟨a, b⟩² of channels as unit vectors."""
    own, target = (normalize(x.flatten(2), dim=2) for x in (student, teacher.detach()))
    return _kernel(target, target).mean() + _kernel(own, own).mean() - 2 * _kernel(own, target).mean()


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, :, None] * b[:, None]).sum(-1).square()


def published_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the smooth L1 of the cosines at the vertex of every three samples."""
    with torch.no_grad():
        target = _cosines(teacher)
    return smooth_l1_loss(_cosines(student), target)


def _cosines(rows: Tensor) -> Tensor:
    directions = normalize(rows[None] - rows[:, None], dim=2)
    return torch.bmm(directions, directions.mT)


FUNCTIONS: dict[str, Loss] = {
    NST: nst_mmd,
    NST_PUBLISHED: published_nst,
    ANGLE: rkd_angle,
    ANGLE_PUBLISHED: published_angle,
}


def value_and_gradient(loss: Loss) -> Contender:
    """Return what is timed: the value on a pair of tensors, and the gradient of the student's."""

    def step(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        value = loss(*pair)
        return value, torch.autograd.grad(value, pair[0])[0]

    return step


def pairs(*shape: int, count: int = 2, device: str = "cpu") -> list[tuple[Tensor, Tensor]]:
    """Return features of student and teacher, the same every time."""
    random = torch.Generator().manual_seed(0)
    drawn = torch.randn(count, 2, *shape, generator=random).to(device)
    return [(own.clone().requires_grad_(), target.clone()) for own, target in drawn]


def check_same_values(name: str, other: str, pair: tuple[Tensor, Tensor]) -> None:
    """Check that two functions have the same value and gradient.

    Raises:
        AssertionError: where they have not.

    """
    found = zip(*(value_and_gradient(FUNCTIONS[key])(pair) for key in (name, other)), strict=True)
    for own, published in found:
        if not (own - published).norm() <= TOLERANCE * published.norm():
            raise AssertionError(f"Not the same function: {name} and {other} differ on {tuple(pair[0].shape)}.")
