"""Soft targets of logits whose mean and spread do not count."""

from __future__ import annotations

from torch import Tensor

from kd_lightning.functional.logits import check_classes, count_rows, soft_target
from kd_lightning.functional.masking import blank
from kd_lightning.functional.precision import widen_for, widened
from kd_lightning.losses.base import DistillationLoss
from kd_lightning.losses.options import check_positive

EPS = 1e-7
"""What is added to a row's standard deviation."""


class LogitStandardized(DistillationLoss):
    """T² · KL of softmaxes of (z − mean) / (std + 1e-7) / T, per row. Logit standardisation, Sun et al. 2024.

    2403.01427: a small student need not reach the size of a large teacher's logits, only their shape. std is that of
    the authors' code, over C − 1; the paper's formula divides by C. For teachers that are much larger than the student;
    the authors give it a weight of 9 beside the hard labels. Of equal logits, as a new head of zeros gives them, the
    gradient is of the order of 10⁶: begin with other weights.

    Args:
        temperature: T, of both.

    Raises:
        ConfigError: if the temperature is not positive.
        MatchError: if shapes differ, there is one class, or the logits are over positions.

    Example:
        >>> import torch
        >>> z = torch.tensor([[1.0, 2.0, 4.0]])
        >>> round(float(LogitStandardized()(z, 10 * z + 3)), 6)
        0.0

    """

    equal_widths = True
    per_address = True
    widens = True

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare logits (B, C) or (B, L, C); mask (B, L)."""
        check_classes("LogitStandardized", student, teacher, mask)
        wide = (blank(widen_for(self.temperature, x), mask) for x in (student, teacher.detach()))
        own, target = map(_standardized, wide)
        return self.temperature**2 * soft_target(own, target, self.temperature, mask=mask).to(widened(student))

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the number of rows or unmasked tokens."""
        return count_rows(student, mask)


def _standardized(logits: Tensor) -> Tensor:
    return (logits - logits.mean(-1, keepdim=True)) / (logits.std(-1, keepdim=True) + EPS)
