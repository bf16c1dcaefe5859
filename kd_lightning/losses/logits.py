"""Squared error of logits."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kd_lightning.core.errors import ConfigError
from kd_lightning.core.types import Schedule
from kd_lightning.functional.masking import count
from kd_lightning.functional.soft_targets import logit_mse
from kd_lightning.losses.base import Compat, DistillationLoss, check_compat, check_positive, textbrewer_mask
from kd_lightning.losses.temperature import SampleTemperature, scheduled_temperature


class LogitMSE(DistillationLoss):
    """Mean of (z_s − z_t)² over samples or unmasked tokens, and over classes.

    For start and end logits (B, L) with a mask of that shape: over unmasked positions.

    Args:
        temperature: only with `compat`, as are the two below; without, T² · mean of ((z_s − z_t) / T)² would not depend
            on it.
        compat: "textbrewer" gives its `mse`, which divides both logits by T (smaller by T²) and takes no notice
            of a mask over start and end logits.
        temperature_schedule: progress in [0, 1] → factor on the temperature.
        sample_temperature: makes a temperature for every row out of the logits and T, as `schedules.FLSW` does. The
            mean it needs runs over this process's rows.

    Raises:
        ConfigError: an unknown `compat`, or a temperature without it.
        MatchError: shapes that do not belong together.

    Example:
        >>> import torch
        >>> LogitMSE()(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2))
        tensor(5.)

    """

    equal_widths = True
    one_by_one = True

    def __init__(
        self,
        temperature: float = 1.0,
        compat: Compat = None,
        temperature_schedule: Schedule | None = None,
        sample_temperature: SampleTemperature | None = None,
    ) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        check_compat(compat)
        if compat is None:
            _check_unused(1.0, temperature=temperature)
            _check_unused(None, temperature_schedule=temperature_schedule, sample_temperature=sample_temperature)
        self.temperature = temperature
        self.compat: Compat = compat
        self.temperature_schedule = temperature_schedule
        self.sample_temperature = sample_temperature

    @property
    def widens(self) -> bool:  # type: ignore[override]
        """Whether all that looks at the logits widens them: this loss does, a temperature of the user's own may not."""
        return self.sample_temperature is None or bool(getattr(self.sample_temperature, "widens", False))

    @property
    def scheduled(self) -> bool:
        """Whether the temperature changes over training."""
        return self.temperature_schedule is not None

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, progress: float = 0.0) -> Tensor:
        """Compare logits (B, C), (B, L, C), or (B, L) over positions; mask (B, L); progress of training in [0, 1]."""
        mask = textbrewer_mask(self.compat, student, mask)
        base = scheduled_temperature(self.temperature, self.temperature_schedule, progress)
        if self.sample_temperature is None:
            return logit_mse(student, teacher, mask, base)
        return logit_mse(student, teacher, mask, self.sample_temperature(student, teacher, base, mask))

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, progress: float = 0.0) -> Tensor:
        """Return the number of samples, unmasked tokens or unmasked positions."""
        mask = textbrewer_mask(self.compat, student, mask)
        return count(student, mask, student.shape[:-1])


def _check_unused(default: Any, **options: Any) -> None:
    for name, value in options.items():
        if value != default:
            raise ConfigError(
                f"Expected argument `{name}` to be {default} but got {value!r}: LogitMSE does not depend on it "
                f'unless compat="textbrewer".'
            )
