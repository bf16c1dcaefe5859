"""One row of the table of losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import nn

from kd_lightning import losses
from kd_lightning.core.types import FeatureInfo

from .samples import Sample

Bound: TypeAlias = tuple[tuple[FeatureInfo, ...], tuple[FeatureInfo, ...]]


@dataclass(frozen=True)
class LossCase:
    """One row: a loss with its options, the inputs it gets, and its oracle.

    Args:
        name: of the row.
        loss: makes the loss.
        oracle: what it is compared with; of a loss with modules it has an argument `state`.
        sample: makes the inputs from a seed.
        options: the loss's, for a configuration.
        bound: what is known of the features of both sides, for losses that prepare for them.
        rtol: how near to the oracle the value is in float64.
        detached: whether part of what the value depends on has no gradient, so that differences are not its gradient.

    """

    name: str
    loss: partial[losses.DistillationLoss]
    oracle: Callable[..., float]
    sample: Callable[[int], Sample]
    options: dict[str, Any]
    bound: Bound | None = None
    rtol: float = 1e-9
    detached: bool = False

    def __str__(self) -> str:
        return self.name

    def build(self) -> losses.DistillationLoss:
        """Return a new loss, ready to be called."""
        return self.prepared(self.loss())

    def prepared(self, loss: losses.DistillationLoss) -> losses.DistillationLoss:
        """Bind a loss, and give its modules the same random weights each time."""
        if self.bound is not None:
            loss.bind(*self.bound)
            randomise(loss)
        return loss

    def config(self) -> dict[str, Any]:
        return _node(partial(self.loss.func, **self.options))


@torch.no_grad()
def randomise(loss: nn.Module) -> None:
    """Give all parameters and running statistics values that are neither zero nor one."""
    generator = torch.Generator().manual_seed(0)
    for parameter in loss.parameters():
        parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator))
    for module in loss.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator))


def _node(part: Any) -> Any:
    """Return a partial as a node of a configuration."""
    if not isinstance(part, partial):
        return part
    target = f"{part.func.__module__}.{part.func.__qualname__}"
    return {"_target_": target, **{key: _node(value) for key, value in part.keywords.items()}}


def case(
    name: str,
    loss: type,
    oracle: Callable[..., float],
    sample: Callable[[int], Sample],
    /,
    bound: Bound | None = None,
    rtol: float = 1e-9,
    detached: bool = False,
    **options: Any,
) -> LossCase:
    """Return a row; options that are partials are made anew for each loss."""
    made = {key: value() if isinstance(value, partial) else value for key, value in options.items()}
    return LossCase(name, partial(loss, **made), oracle, sample, options, bound, rtol, detached)
