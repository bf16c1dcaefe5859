"""Temperatures that differ from sample to sample (Wen et al. 2019, 1911.07471), for `SoftTarget`.

TextBrewer lets such a temperature fall to zero and below, where a softmax turns upside down; here it stops at a floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kd_lightning.core.errors import ConfigError
from kd_lightning.functional.temperatures import confidence_temperature, focal_temperature


@dataclass(frozen=True)
class FLSW:
    """Focal loss style: T = T₀ + (mean w − w)·β with w = (1 − cos(z_s, z_t))^γ; softer where student and teacher agree.

    Args:
        beta: how far temperatures spread.
        gamma: power, not negative.
        floor: lowest temperature.

    Raises:
        ConfigError: for a negative `gamma` or a floor that is not positive.

    Example:
        >>> import torch
        >>> z = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> FLSW(beta=1.0, gamma=1.0)(z, torch.tensor([[2.0, 0.0], [0.0, 2.0]]), 4.0).round(decimals=1)
        tensor([4.5000, 3.5000])

    """

    widens: ClassVar[bool] = True

    beta: float
    gamma: float = 1.0
    floor: float = 0.1

    def __post_init__(self) -> None:
        """Check the options once."""
        _check_floor(self.floor)
        if self.gamma < 0:
            raise ConfigError(f"Expected argument `gamma` of FLSW not to be negative but got {self.gamma}.")

    def __call__(self, student: Tensor, teacher: Tensor, base: float, mask: Tensor | None = None) -> Tensor:
        """Return one temperature per row, without gradient."""
        return focal_temperature(student, teacher, base, self.beta, self.gamma, mask).clamp(min=self.floor)


@dataclass(frozen=True)
class CWSM:
    """Confidence weighted by softmax maximum: w = 1 / (max p_s + 0.001); softer where the student is sure.

    Args:
        beta: how far temperatures spread.
        floor: lowest temperature.

    Raises:
        ConfigError: for a floor that is not positive.

    Example:
        >>> import torch
        >>> z = torch.tensor([[0.0, 0.0], [99.0, 0.0]])
        >>> CWSM(beta=100.0)(z, z, 4.0).round(decimals=1)
        tensor([ 0.1000, 53.9000])

    """

    widens: ClassVar[bool] = True

    beta: float
    floor: float = 0.1

    def __post_init__(self) -> None:
        """Check the options once."""
        _check_floor(self.floor)

    def __call__(self, student: Tensor, teacher: Tensor, base: float, mask: Tensor | None = None) -> Tensor:
        """Return one temperature per row, without gradient."""
        return confidence_temperature(student, base, self.beta, mask).clamp(min=self.floor)


def _check_floor(floor: float) -> None:
    if not floor > 0:
        raise ConfigError(f"Expected argument `floor` of a temperature to be positive but got {floor}.")
