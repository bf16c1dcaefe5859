"""What losses may ask of a teacher's weights at an address: taken from the module there, or from a cache's manifest."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kd_lightning.core.errors import MatchError, hint
from kd_lightning.core.types import FeatureInfo

SMALL = 1e-3
"""The share of negative values below which their mean is no longer computed but set to −3 standard deviations."""


def teacher_state(feature: FeatureInfo, name: str) -> Tensor:
    """Return what a loss asks of the teacher's weights at one of its features.

    Args:
        feature: of a live teacher, with the module; or of a cache that was built for a loss that asks the same.
        name: one of `STATE`.

    Returns:
        A copy without gradient, in float32.

    Raises:
        MatchError: if the cache does not hold it, or the module at the address has no such thing.

    Example:
        >>> teacher_state(FeatureInfo("map", 2, module=nn.BatchNorm2d(2)), "margins")
        tensor([-0.7979, -0.7979])

    """
    if name in feature.state:
        return feature.state[name].clone()
    if name not in STATE:
        raise MatchError(f"There is no '{name}' of a teacher's weights. {hint(name, STATE)}")
    if feature.module is None:
        raise MatchError(
            f"the loss needs '{name}' of the teacher's weights, for which '{feature.address}' must be a module: "
            f"{ADDRESS[name]}. Of a cached teacher, the cache must be built with this term in the objective."
        )
    with torch.no_grad():
        return STATE[name](feature.module, feature.address).float().cpu()


def margins(module: nn.Module, address: str) -> Tensor:
    """Return the mean of the negative values of each channel behind a batch norm, (C,): OFD's margins.

    Heo et al. 2019 (1904.01866), section 3.1: of x ~ N(β, γ²), E[x | x < 0] = β − |γ| φ(β/γ) / Φ(−β/|γ|).

    Args:
        module: a `BatchNorm2d`, or a module with a `norm` that is one, as `stages.k.preact` of our networks.
        address: for the message.

    Raises:
        MatchError: if it is neither.

    """
    if getattr(module, "norm", module) is None:
        raise MatchError(f"the loss needs the batch norm in front of '{address}', and this network has none there.")
    norm = module if isinstance(module, nn.BatchNorm2d) else getattr(module, "norm", None)
    if not isinstance(norm, nn.BatchNorm2d) or norm.weight is None or norm.bias is None:
        raise MatchError(
            f"the loss needs the batch norm whose output '{address}' is, and {type(module).__name__} is none: address "
            "a BatchNorm2d, or a module with a `norm` that is one."
        )
    mean, spread = norm.bias.double(), norm.weight.double().abs().clamp(min=1e-12)
    below = torch.special.ndtr(-mean / spread)
    density = torch.exp(-((mean / spread) ** 2) / 2) / math.sqrt(2 * math.pi)
    return torch.where(below > SMALL, mean - spread * density / below.clamp(min=SMALL), -3 * spread)


def classifier(module: nn.Module, address: str) -> Tensor:
    """Return the rows of a linear classifier, (K, D).

    Raises:
        MatchError: if the module is no linear layer.

    """
    if not isinstance(module, nn.Linear):
        raise MatchError(
            f"the loss needs the teacher's classifier, and {type(module).__name__} at '{address}' is no linear layer: "
            "address the layer itself, such as 'head'."
        )
    return module.weight


ADDRESS = {
    "margins": "address the batch norm, or stages.k.preact",
    "classifier": "address the classifier, such as head",
}
"""What to address for each, for messages."""

STATE: dict[str, Callable[[nn.Module, str], Tensor]] = {"margins": margins, "classifier": classifier}
"""What can be asked for, and how it is taken from the module at an address."""
