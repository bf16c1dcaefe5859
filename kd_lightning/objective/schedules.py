"""Schedules: how a weight or a temperature changes over training, and from sample to sample.

`Constant`, `LinearDecay`, `LinearGrowth`, `Warmup`, `BurnIn` and `Cosine` map x = step / total steps in [0, 1] to a
factor; what is used is base × factor. They hold no state, so a resumed run continues where it was. Any callable from
float to float is a schedule too.

`FLSW` and `CWSM` make temperatures that differ from sample to sample (Wen et al. 2019, 1911.07471), for `SoftTarget`.
TextBrewer lets such a temperature fall to zero and below, where a softmax turns upside down; here it stops at a floor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kd_lightning.core.arguments import check_finite_number, is_finite_number
from kd_lightning.core.errors import ConfigError
from kd_lightning.functional.temperatures import confidence_temperature, focal_temperature

__all__ = ["CWSM", "FLSW", "BurnIn", "Constant", "Cosine", "LinearDecay", "LinearGrowth", "Warmup"]


@dataclass(frozen=True)
class Constant:
    """Always `factor`.

    Raises:
        ConfigError: if the factor is no finite number.

    Example:
        >>> Constant()(0.7)
        1.0

    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        """Check the factor once, not at every step."""
        check_finite_number("factor", self.factor)

    def __call__(self, progress: float) -> float:
        """Return the factor at `progress`."""
        return self.factor


@dataclass(frozen=True)
class LinearDecay:
    """From 1 down to 0: f(x) = 1 − x.

    Example:
        >>> LinearDecay()(0.25)
        0.75

    """

    def __call__(self, progress: float) -> float:
        """Return the factor at `progress`."""
        return 1.0 - progress


@dataclass(frozen=True)
class LinearGrowth:
    """From 0 up to 1: f(x) = x.

    Example:
        >>> LinearGrowth()(0.25)
        0.25

    """

    def __call__(self, progress: float) -> float:
        """Return the factor at `progress`."""
        return progress


@dataclass(frozen=True)
class Warmup:
    """From 0 up to 1 within the first `share` of training, then 1: f(x) = min(x / share, 1).

    Raises:
        ConfigError: if `share` is not in (0, 1].

    Example:
        >>> Warmup(share=0.1)(0.05), Warmup(share=0.1)(0.5)
        (0.5, 1.0)

    """

    share: float = 0.1

    def __post_init__(self) -> None:
        """Check the share once, not at every step."""
        if not is_finite_number(self.share) or not 0 < self.share <= 1:
            raise ConfigError(f"Expected argument `share` of Warmup to be in (0, 1] but got {self.share!r}.")

    def __call__(self, progress: float) -> float:
        """Return the factor at `progress`."""
        return min(progress / self.share, 1.0)


@dataclass(frozen=True)
class BurnIn:
    """0 within the first `share` of training, then 1.

    Raises:
        ConfigError: if `share` is not in [0, 1).

    Example:
        >>> BurnIn(share=0.2)(0.1), BurnIn(share=0.2)(0.2)
        (0.0, 1.0)

    """

    share: float = 0.1

    def __post_init__(self) -> None:
        """Check the share once, not at every step."""
        if not is_finite_number(self.share) or not 0 <= self.share < 1:
            raise ConfigError(f"Expected argument `share` of BurnIn to be in [0, 1) but got {self.share!r}.")

    def __call__(self, progress: float) -> float:
        """Return the factor at `progress`."""
        return 1.0 if progress >= self.share else 0.0


@dataclass(frozen=True)
class Cosine:
    """From 1 down to 0 along half a cosine: f(x) = ½(1 + cos πx).

    Args:
        start: the share of training that is at 1 before.

    Raises:
        ConfigError: if `start` is not in [0, 1).

    Example:
        >>> round(Cosine()(0.5), 6), Cosine(start=0.5)(0.4), round(Cosine(start=0.5)(0.75), 6)
        (0.5, 1.0, 0.5)

    """

    start: float = 0.0

    def __post_init__(self) -> None:
        """Check the share once, not at every step."""
        if not is_finite_number(self.start) or not 0 <= self.start < 1:
            raise ConfigError(f"Expected argument `start` of Cosine to be in [0, 1) but got {self.start!r}.")

    def __call__(self, progress: float) -> float:
        """Return the factor at `progress`."""
        return 0.5 * (1.0 + math.cos(math.pi * max(progress - self.start, 0.0) / (1.0 - self.start)))


@dataclass(frozen=True)
class FLSW:
    """Focal loss style: T = T₀ + (mean w − w)·β with w = (1 − cos(z_s, z_t))^γ; softer where student and teacher agree.

    Args:
        beta: how far temperatures spread.
        gamma: power, not negative.
        floor: lowest temperature.

    Raises:
        ConfigError: if `gamma` is negative, or the floor not positive.

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
        check_finite_number("beta", self.beta)
        if not is_finite_number(self.gamma) or self.gamma < 0:
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
        ConfigError: if the floor is not positive.

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
        check_finite_number("beta", self.beta)

    def __call__(self, student: Tensor, teacher: Tensor, base: float, mask: Tensor | None = None) -> Tensor:
        """Return one temperature per row, without gradient."""
        return confidence_temperature(student, base, self.beta, mask).clamp(min=self.floor)


def _check_floor(floor: float) -> None:
    if not is_finite_number(floor) or not floor > 0:
        raise ConfigError(f"Expected argument `floor` of a temperature to be positive but got {floor}.")
