"""Factors over the progress of training, for weights and temperatures.

Each maps x = step / total steps in [0, 1] to a factor; what is used is base × factor. It holds no state, so a resumed
run picks up where it was. Any callable from float to float is a schedule too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kd_lightning.core.errors import ConfigError


@dataclass(frozen=True)
class Constant:
    """Always `factor`.

    Example:
        >>> Constant()(0.7)
        1.0

    """

    factor: float = 1.0

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
        if not 0 < self.share <= 1:
            raise ConfigError(f"Expected argument `share` of Warmup to be in (0, 1] but got {self.share}.")

    def __call__(self, progress: float) -> float:
        """Return the factor at `progress`."""
        return min(progress / self.share, 1.0)


@dataclass(frozen=True)
class Cosine:
    """From 1 down to 0 along half a cosine: f(x) = ½(1 + cos πx).

    Example:
        >>> round(Cosine()(0.5), 6)
        0.5

    """

    def __call__(self, progress: float) -> float:
        """Return the factor at `progress`."""
        return 0.5 * (1.0 + math.cos(math.pi * progress))
