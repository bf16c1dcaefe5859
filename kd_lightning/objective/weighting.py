"""The mean of a loss over rows that count differently, whatever the loss is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kd_lightning.core.errors import ConfigError
from kd_lightning.losses.base import DistillationLoss, LossTraits
from kd_lightning.losses.labels import HardLabels
from kd_lightning.losses.soft_target import SoftLabels
from kd_lightning.objective.sample_weights import SampleWeight


def weighted(
    loss: Callable[..., Tensor],
    sides: Sequence[Tensor | tuple[Tensor, ...]],
    given: Mapping[str, Any],
    weights: Tensor,
    normalize: bool,
) -> tuple[Tensor, Tensor]:
    """Return Σ w·n·v / Σ w·n over rows, or Σ w·n·v / Σ n, and what it is divided by.

    v is the loss of a row by itself, and n what it counts in it, such as its tokens: any loss whose value is a mean
    over rows can be weighted, without knowing of it.

    Args:
        loss: of which each row is asked for by itself.
        sides: what it compares, batch first.
        given: what it names: `mask`, `labels` and the like of the rows, and what is the same for all.
        weights: (B,).
        normalize: whether to divide by the weighted count.

    """
    per_row = {name for name, value in given.items() if isinstance(value, Tensor) and value.dim()}
    shared = {name: value for name, value in given.items() if name not in per_row}

    def of_row(own: Any, rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        tensors = [tuple(x[None] for x in side) if isinstance(side, tuple) else side[None] for side in own]
        arguments = {**shared, **{name: value[None] for name, value in rows.items()}}
        return loss(*tensors, **arguments), loss.count(*tensors, **arguments)  # type: ignore[attr-defined]

    values, counts = torch.vmap(of_row)(list(sides), {name: given[name] for name in per_row})
    counts = counts.to(values.dtype)
    weighed = weights.to(values) * counts
    total = weighed.sum() if normalize else counts.sum()
    return (weighed * values).sum() / total.clamp(min=torch.finfo(values.dtype).tiny), total


def check_weighted(rule: object, loss: object, traits: LossTraits) -> None:
    """Refuse a rule that is none, and a loss whose rows cannot be weighted, or have no classes to weigh them by.

    Raises:
        ConfigError: saying which.

    """
    if not isinstance(rule, SampleWeight):
        raise ConfigError(
            f"Expected argument `sample_weight` to be one of kd_lightning.sample_weights, such as Entropy(), but got "
            f"{rule!r}."
        )
    name, unweighted = type(loss).__name__, {"batch", "seed"} & {*traits.arguments}
    counts = isinstance(loss, DistillationLoss) and type(loss).count is not DistillationLoss.count
    if traits.gather or unweighted or not counts:
        raise ConfigError(
            f"The rows of {name} cannot be weighted: its value is no mean over rows. Leave sample_weight out."
        )
    if isinstance(loss, SoftLabels | HardLabels) and (rule.needs_classes or getattr(rule, "kind", "") == "classes"):
        raise ConfigError(
            f"{type(rule).__name__} weighs rows by probabilities of one class, and {name} has several labels: take "
            "Gap(kind='labels')."
        )
