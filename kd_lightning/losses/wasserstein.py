"""Logits compared by what it costs to move probability from class to class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from kd_lightning.core.arguments import check_finite_number
from kd_lightning.core.errors import ConfigError, MatchError
from kd_lightning.core.types import FeatureInfo, Schedule
from kd_lightning.features.state import teacher_state
from kd_lightning.functional.decoupled import class_of, cross_entropies, labelled_rows
from kd_lightning.functional.masking import blank, masked_mean, times
from kd_lightning.functional.precision import matmul, widen
from kd_lightning.functional.sinkhorn import sinkhorn
from kd_lightning.losses.labelled import LabelledLoss
from kd_lightning.losses.options import check_count, check_positive


class WKDL(LabelledLoss):
    """−p_t,y log p_s,y + weight · W(softmax(z_t / T), softmax(z_s / T)) of the other classes. Lv et al. 2024.

    2412.08139, section 3.1: a divergence compares each class with itself; the Wasserstein distance W knows that some
    classes are near to each other. The cost of moving from class i to j is 1 − exp(−sharpen · d_ij), W is Sinkhorn's.
    The authors' d is 1 − CKA of the classes' features (`kd.inspection.class_distances`); "classifier" takes 1 − cos of
    the rows of the teacher's classifier, whose layer must then be the teacher's address (`head`). For teachers with
    many classes. Memory is B·K².

    Args:
        cost: "classifier", or d, (K, K) or a file of `torch.save`.
        temperature: T, of the other classes: 8 on CIFAR-100, 2 on ImageNet; the true class has 1.
        weight: of W: 600 on CIFAR-100, 30 on ImageNet.
        schedule: progress → factor on that weight; the authors lower it along a cosine.
        sharpen: how fast costs grow with d.
        regulariser: Sinkhorn's.
        iterations: Sinkhorn's.

    Raises:
        ConfigError: if a number is not positive, or the cost is no square matrix and no file of one.
        MatchError: if shapes differ, there is not one class per row, or the teacher's address is no linear layer.

    Example:
        >>> loss = WKDL(cost=1 - torch.eye(3), weight=1.0, temperature=1.0)
        >>> z = torch.tensor([[9.0, 0.0, 0.0]])
        >>> round(float(loss(z, z, labels=torch.tensor([0]))), 3)
        0.0

    """

    def __init__(
        self,
        cost: Tensor | str | Path = "classifier",
        temperature: float = 8.0,
        weight: float = 600.0,
        schedule: Schedule | None = None,
        sharpen: float = 1.0,
        regulariser: float = 0.05,
        iterations: int = 10,
    ) -> None:
        super().__init__()
        for name, value in (("temperature", temperature), ("regulariser", regulariser), ("sharpen", sharpen)):
            check_positive(name, value)
        check_count("iterations", iterations)
        check_finite_number("weight", weight, least=0)
        if schedule is not None and not callable(schedule):
            raise ConfigError(
                f"Expected argument `schedule` of WKDL to be a function of progress but got {schedule!r}."
            )
        self.temperature, self.weight, self.schedule = temperature, weight, schedule
        self.sharpen, self.regulariser, self.iterations = sharpen, regulariser, iterations
        self.scheduled = schedule is not None
        self.teacher_state = ("classifier",) if isinstance(cost, str) and cost == "classifier" else ()
        self.register_buffer("costs", None if self.teacher_state else self._costs(_matrix(cost)), persistent=False)

    def bind(self, student: tuple[FeatureInfo, ...], teacher: tuple[FeatureInfo, ...]) -> None:
        """Make the costs from the teacher's classifier, where they are not given."""
        if self.teacher_state:
            if len(teacher) != 1:
                raise MatchError("WKDL needs the teacher's classifier as its one address, such as 'head'.")
            rows = normalize(teacher_state(teacher[0], "classifier"), dim=1)
            distances = (1 - matmul(rows, rows.T)).fill_diagonal_(0.0)  # not a rounding error, times a weight of 600
            self.costs = self._costs(distances)

    def _costs(self, distances: Tensor) -> Tensor:
        return (1 - torch.exp(-self.sharpen * distances)).clamp(min=0)

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        labels: Tensor | None = None,
        progress: float = 0.0,
    ) -> Tensor:
        """Compare logits (B, K) or (B, L, K) under labels (B,) or (B, L); mask (B, L)."""
        keep = labelled_rows("WKDL", student, teacher, labels, mask)
        if self.costs is None or len(self.costs) != student.shape[-1]:
            got = "none" if self.costs is None else f"those of {len(self.costs)} classes"
            raise MatchError(f"WKDL needs the costs between {student.shape[-1]} classes but has {got}.")
        weight = self.weight * (1.0 if self.schedule is None else self.schedule(progress))
        own, target = (blank(widen(x), keep).flatten(0, -2) for x in (student, teacher.detach()))
        classes, counted = class_of(labels, keep).flatten(), keep.flatten()
        certain = (-cross_entropies("WKDL", target, classes, counted)).exp()
        of_label = times(certain, cross_entropies("WKDL", own, classes, counted))
        return masked_mean(of_label + weight * self._moved(own, target, classes), counted)

    def _moved(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Return what it costs to move the student's other classes to the teacher's, (R,)."""
        places = torch.arange(student.shape[1] - 1, device=student.device)
        others = places + (places >= labels[:, None])
        log_p, log_q = ((x.gather(1, others) / self.temperature).log_softmax(1) for x in (student, teacher))
        costs = self.costs.to(student.dtype)[others[:, :, None], others[:, None, :]]
        return (sinkhorn(log_p, log_q, costs, self.regulariser, self.iterations) * costs).sum((1, 2))


def _matrix(cost: Any) -> Tensor:
    if isinstance(cost, str | Path) and not Path(cost).is_file():
        raise ConfigError(f"Expected argument `cost` of WKDL to be 'classifier' or a file, and {cost} is none.")
    matrix = torch.load(cost, weights_only=True) if isinstance(cost, str | Path) else cost
    if not isinstance(matrix, Tensor) or matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ConfigError(f"Expected argument `cost` of WKDL to be 'classifier' or a (K, K) matrix but got {cost!r}.")
    if not matrix.isfinite().all() or (matrix < 0).any():
        raise ConfigError("Expected the costs of WKDL to be finite and not negative.")
    return matrix.float()
