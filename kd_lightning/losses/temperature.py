"""Temperatures that change: over training by a schedule, and from sample to sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from kd_lightning.core.errors import ConfigError
from kd_lightning.core.types import Schedule

SampleTemperature: TypeAlias = Callable[[Tensor, Tensor, float, Tensor | None], Tensor]
"""(student's logits, teacher's logits, base temperature, mask) → one temperature per row.

Logits come in at least float32; one that says `widens = True` gets them as the models made them.
"""


def scheduled_temperature(base: float, schedule: Schedule | None, progress: float) -> float:
    """Return base × schedule(progress).

    Raises:
        ConfigError: where that is not positive.

    Example:
        >>> scheduled_temperature(4.0, lambda x: 1 - x, progress=0.5)
        2.0

    """
    if schedule is None:
        return base
    temperature = base * schedule(progress)
    if not temperature > 0:
        raise ConfigError(f"The schedule {schedule!r} makes a temperature of {temperature}.")
    return temperature
