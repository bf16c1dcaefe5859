"""Squared error of logits."""

from __future__ import annotations

from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.functional.masking import count
from kd_lightning.functional.soft_targets import logit_mse
from kd_lightning.losses.base import Compat, DistillationLoss, check_compat, check_positive, textbrewer_mask


class LogitMSE(DistillationLoss):
    """Mean of (z_s − z_t)² over samples or unmasked tokens, and over classes.

    For start and end logits (B, L) with a mask of that shape: over unmasked positions.

    Args:
        temperature: only with `compat`; without, T² · mean of ((z_s − z_t) / T)² would not depend on it.
        compat: "textbrewer" gives its `mse`, which divides both logits by T (smaller by T²) and takes no notice
            of a mask over start and end logits.

    Raises:
        ConfigError: an unknown `compat`, or a temperature without it.
        MatchError: shapes that do not belong together.

    Example:
        >>> import torch
        >>> LogitMSE()(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2))
        tensor(5.)

    """

    equal_widths = True

    def __init__(self, temperature: float = 1.0, compat: Compat = None) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        check_compat(compat)
        if temperature != 1.0 and compat is None:
            raise ConfigError(
                f"Expected argument `temperature` to be 1.0 but got {temperature!r}: LogitMSE does not depend on it "
                f'unless compat="textbrewer".'
            )
        self.temperature = temperature
        self.compat: Compat = compat

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare logits (B, C), (B, L, C), or (B, L) over positions; mask (B, L)."""
        return logit_mse(student, teacher, textbrewer_mask(self.compat, student, mask)) / self.temperature**2

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the number of samples, unmasked tokens or unmasked positions."""
        mask = textbrewer_mask(self.compat, student, mask)
        return count(student, mask, student.shape[:-1])
