"""A map from all layers to all layers that is learned while the student is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from kd_lightning.core.errors import ConfigError, MatchError
from kd_lightning.core.types import FeatureInfo, RowInfo
from kd_lightning.functional.transport import cost_attention, optimal_flow
from kd_lightning.losses.base import WrappedLoss
from kd_lightning.losses.options import check_positive

Layers: TypeAlias = Sequence[Tensor] | Tensor
"""The same feature of several layers of one model; of one layer, the tensor itself."""


class EMD(WrappedLoss):
    """Σ_ij F_ij D_ij: every student layer learns from every teacher layer, by the share of the cheapest flow F.

    BERT-EMD, Li et al. 2020 (2020.emnlp-main.242): D_ij is another loss between student layer i and teacher layer j;
    F is the optimal transport between the layers' weights under this cost, and carries no gradient. Weights start
    uniform. After each training step (with accumulation: each micro-batch) layers that were cheap to match get more
    (`functional.transport.cost_attention`). The authors' code can average the weights of hidden states and attention;
    here each term has its own.

    The weights are in checkpoints. In eval mode they stay as they are. Under DDP costs are averaged over all ranks,
    by what the loss counts, so that flow and weights are those of one process on the whole batch; every rank must call.
    S·T losses are computed and kept for the backward pass: memory grows with both depths.

    Args:
        loss: compares one layer of each model: `HiddenMSE`, `AttentionMSE`, …
        student_layers: S; None: as many as the match names, known when a term binds the loss.
        teacher_layers: T, likewise.
        temperature: τ of the weights: the higher, the more alike; with τ = 1 the cheapest teacher layer soon has nearly
            all. None: uniform weights that are not learned.

    Raises:
        ConfigError: if the temperature is not positive, or `loss` is no loss between two layers.
        MatchError: if the match has another number of layers than the loss is made for.

    Example:
        >>> from kd_lightning.losses import HiddenMSE
        >>> loss = EMD(HiddenMSE(), student_layers=2, teacher_layers=2)
        >>> low, high = torch.zeros(1, 3, 4), torch.ones(1, 3, 4)
        >>> loss((low, high), (high, low))
        tensor(0.)
        >>> loss.flow
        tensor([[0.0000, 0.5000],
                [0.5000, 0.0000]])

    """

    student_weights: Tensor
    """(S,), summing to one."""
    teacher_weights: Tensor
    """(T,), summing to one."""
    flow: Tensor
    """(S, T): the flow of the last training step; in no checkpoint."""

    def __init__(
        self,
        loss: Callable[..., Tensor],
        student_layers: int | None = None,
        teacher_layers: int | None = None,
        temperature: float | None = 10.0,
    ) -> None:
        check_positive("temperature", temperature)
        if isinstance(loss, EMD):
            raise ConfigError(f"Expected argument `loss` of EMD to be a loss between two layers but got {loss!r}.")
        super().__init__(loss)
        self.per_address = False  # all layers are one comparison
        self.temperature = temperature
        self.student_layers, self.teacher_layers = student_layers, teacher_layers
        self._start_uniform()

    def bind(
        self, student: tuple[FeatureInfo, ...], teacher: tuple[FeatureInfo, ...], rows: RowInfo | None = None
    ) -> None:
        """Take the numbers of layers from the match, and start from uniform weights; bind the inner loss to one layer.

        Raises:
            MatchError: if the loss is made for other numbers of layers.

        """
        self._check(len(student), len(teacher))
        self.student_layers, self.teacher_layers = len(student), len(teacher)
        self._start_uniform()
        super().bind(student[:1], teacher[:1], rows)

    def _start_uniform(self) -> None:
        s, t = self.student_layers, self.teacher_layers
        self.register_buffer("student_weights", torch.full((s,), 1 / s) if s else None)
        self.register_buffer("teacher_weights", torch.full((t,), 1 / t) if t else None)
        self.register_buffer("flow", torch.full((s, t), 1 / (s * t)) if s and t else None, persistent=False)

    def forward(self, student: Layers, teacher: Layers, mask: Tensor | None = None, **given: Any) -> Tensor:
        """Compare S layers of the student with T of the teacher, each as the inner loss wants it; mask (B, L)."""
        student, teacher = _listed(student), _listed(teacher)
        if None in (self.student_layers, self.teacher_layers):
            raise ConfigError(
                f"EMD must know its numbers of layers: EMD(…, student_layers={len(student)}, "
                f"teacher_layers={len(teacher)}), or a term that is bound to two models, which fills them in."
            )
        self._check(len(student), len(teacher))
        given["mask"] = mask
        cost = torch.stack([torch.stack([self.compare(s, t, **given) for t in teacher]) for s in student])
        flow = self._flow(cost.detach(), self.count(student, teacher, **given))
        return (flow * cost).sum()

    def count(self, student: Layers, teacher: Layers, mask: Tensor | None = None, **given: Any) -> Tensor | None:
        """Return what the inner loss counts, the same for every pair of layers."""
        return super().count(_listed(student)[0], _listed(teacher)[0], mask=mask, **given)

    def _check(self, student: int, teacher: int) -> None:
        for made_for, number in ((self.student_layers, student), (self.teacher_layers, teacher)):
            if made_for not in (None, number):
                raise MatchError(
                    f"EMD is made for {self.student_layers} student and {self.teacher_layers} teacher layers but got "
                    f"{student} and {teacher}: the match must name as many addresses."
                )

    @torch.no_grad()
    def _flow(self, cost: Tensor, count: Tensor | None) -> Tensor:
        """Return the flow; in training it is kept, and the next step's weights follow from it."""
        if self.training:
            cost = _over_ranks(cost, count)
        flow = optimal_flow(cost, _whole(self.student_weights), _whole(self.teacher_weights))
        if self.training:
            self.flow.copy_(flow)
            if self.temperature is not None:
                for weights, f, d in ((self.student_weights, flow, cost), (self.teacher_weights, flow.T, cost.T)):
                    weights.copy_(cost_attention(f, d, _whole(weights), self.temperature))
        return flow


def _listed(layers: Layers) -> Sequence[Tensor]:
    return [layers] if isinstance(layers, Tensor) else layers


def _whole(weights: Tensor) -> Tensor:
    """Return the weights with a sum of one to the last digit, whatever they were stored in."""
    weights = weights.float() if weights.device.type == "mps" else weights.double()
    return weights / weights.sum()


def _over_ranks(cost: Tensor, count: Tensor | None) -> Tensor:
    """Return the mean of the ranks' costs, by what each counts."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return cost
    own = cost.new_ones(()) if count is None else count.to(cost)
    summed = torch.cat([(own * cost).flatten(), own.reshape(1)])
    dist.all_reduce(summed)
    return (summed[:-1] / summed[-1].clamp(min=1e-12)).reshape(cost.shape)
