"""A method as one writes it without a library: hooks keep the features, losses are called on them, SGD makes a step.

The losses are ours, and so are the modules that they and projections train: what differs from our step is everything
between the models and the losses (objective, terms, taps, teacher source).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import kd_lightning as kd
from benchmarks.ours import move
from kd_lightning.functional.maps import Pooling, same_size
from kd_lightning.losses.base import LossTraits

Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Kept = dict[str, Tensor]
"""What hooks have kept of one forward pass, by address."""


@dataclass(frozen=True)
class Line:
    """One line of the loop: which features a loss is called on, and how much it counts."""

    student: tuple[str, ...]
    teacher: tuple[str, ...]
    loss: Callable[..., Tensor]
    projection: nn.Module | None
    arguments: tuple[str, ...]
    each_pair: bool
    paired: bool
    pooling: Pooling | None
    weight: float

    @classmethod
    def of(cls, term: kd.Term) -> Line:
        """Return what one would write for a term, at the beginning of training."""
        traits, own = LossTraits.of(term.loss), term.match.student_addresses
        each_pair = traits.per_address and len(own) > 1
        target = term.match.teacher_addresses
        paired = each_pair or (traits.paired and bool(target))
        called, weight = (term.loss, term.projection, traits.arguments), term.weight_at(0.0)
        return cls(own, target, *called, each_pair, paired, term.resize, weight)

    def __call__(self, student: Kept, teacher: Kept, batch: Mapping[str, Any]) -> Tensor:
        """Return the unweighted loss."""
        own = [student[address] for address in self.student]
        if self.projection is not None:
            own = [self.projection(x) for x in own]
        target = [teacher[address] if address in teacher else batch[address] for address in self.teacher]
        own, target = self.of_one_size(own, target)
        whole = {"mask": None, "progress": 0.0, "seed": 0, "batch": batch}
        given = {name: whole[name] if name in whole else batch[name] for name in self.arguments}
        if self.each_pair:
            return torch.stack([self.loss(x, y, **given) for x, y in zip(own, target, strict=True)]).mean()
        sides = [side[0] if len(side) == 1 else tuple(side) for side in (own, target) if side]
        return self.loss(*sides, **given)

    def of_one_size(self, own: list[Tensor], target: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return both sides with maps pooled to the smallest, or each pair of them."""
        if self.pooling is None:
            return own, target
        if self.paired:
            both = [_pooled([x, y], self.pooling) for x, y in zip(own, target, strict=True)]
            return [x for x, _ in both], [y for _, y in both]
        pooled = _pooled([*own, *target], self.pooling)
        return pooled[: len(own)], pooled[len(own) :]


def _pooled(features: list[Tensor], pooling: Pooling) -> list[Tensor]:
    sizes = {x.shape[2:] for x in features if x.dim() == 4}
    if len(sizes) < 2:
        return features
    maps = iter(same_size(*(x for x in features if x.dim() == 4), mode=pooling))
    return [next(maps) if x.dim() == 4 else x for x in features]


class HandWritten:
    """A loop over the terms of a bound objective, of whose modules it has a copy.

    Args:
        student: trained; gets hooks for good.
        teacher: likewise; frozen. None where no term needs one.
        objective: bound to two such models.
        optimizer: makes one of all that is trained.
        device: where the models are.

    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        objective: kd.Objective,
        optimizer: Optimizer,
        device: str = "cpu",
    ) -> None:
        own = copy.deepcopy(objective).to(device)
        self.lines = {name: Line.of(term) for name, term in own.named_terms().items()}
        self.student, self.device = student.to(device).train(), device
        self.teacher = teacher.to(device).eval().requires_grad_(False) if teacher is not None else None
        self.of_student = keep(self.student, own.student_addresses)
        self.of_teacher = keep(self.teacher, own.teacher_addresses) if self.teacher is not None else {}
        self.optimizer = optimizer([*self.student.parameters(), *own.parameters()])

    def parts(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the unweighted losses by term, of a batch on the device."""
        self.of_student["logits"] = self.student(batch["pixel_values"])
        if self.teacher is not None:
            with torch.no_grad():
                self.of_teacher["logits"] = self.teacher(batch["pixel_values"])
        found = {name: line(self.of_student, self.of_teacher, batch) for name, line in self.lines.items()}
        self.of_student.clear()
        self.of_teacher.clear()
        return found

    def __call__(self, batch: Any) -> None:
        """Do one step."""
        parts = self.parts(move(batch, self.device))
        total = torch.stack([self.lines[name].weight * part for name, part in parts.items()]).sum()
        total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def keep(model: nn.Module, addresses: Iterable[str]) -> Kept:
    """Put a hook on each addressed module, and return the dict in which they keep its output, or its input (`:in`)."""
    kept: Kept = {}
    for address in addresses:
        if address != "logits":
            _put_hook(model.get_submodule(address.removesuffix(":in")), address, kept)
    return kept


def _put_hook(module: nn.Module, address: str, kept: Kept) -> None:
    def hook(_: nn.Module, args: Any, output: Tensor) -> None:
        kept[address] = args[0] if address.endswith(":in") else output

    module.register_forward_hook(hook)


def plain_step(student: nn.Module, teacher: nn.Module | None, optimizer: Optimizer, device: str = "cpu") -> Any:
    """Return a step of the student on labels alone, and a teacher's forward, of which nothing is used."""
    student, rule = student.to(device).train(), optimizer(student.parameters())
    teacher = teacher.to(device).eval() if teacher is not None else None

    def step(batch: Any) -> None:
        moved = move(batch, device)
        if teacher is not None:
            with torch.no_grad():
                teacher(moved["pixel_values"])
        nn.functional.cross_entropy(student(moved["pixel_values"]), moved["labels"]).backward()
        rule.step()
        rule.zero_grad()

    return step
