"""The teacher's logits at a growing share of their size: from a nearly uniform teacher to the teacher itself."""

from __future__ import annotations

from torch import Tensor

from kd_lightning.core.errors import ConfigError
from kd_lightning.functional.logits import logit_mse
from kd_lightning.functional.masking import count
from kd_lightning.functional.precision import widen
from kd_lightning.losses.base import DistillationLoss


class AnnealedLogits(DistillationLoss):
    """Mean of (z_s − Φ z_t)² over samples or unmasked tokens, and over classes; Φ = 1 − (τ − 1)/τ_max grows to 1.

    Annealing-KD, Jafari et al. 2021 (2104.07163), eq. 4: τ falls from τ_max to 1, each of its whole values for an equal
    share of training. Afterwards the paper trains on labels alone: `plan=annealing`.

    Args:
        max_temperature: τ_max, a whole number from 1; 1 is `LogitMSE`.

    Raises:
        ConfigError: if it is no such number.
        MatchError: if the logits' shapes differ, or the mask fits neither rows nor positions.

    Example:
        >>> import torch
        >>> loss = AnnealedLogits(max_temperature=4)
        >>> [loss.share(progress) for progress in (0.0, 0.3, 0.5, 1.0)]
        [0.25, 0.5, 0.75, 1.0]
        >>> loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[4.0, 0.0]]), progress=0.0)
        tensor(0.)

    """

    equal_widths = True
    per_address = True
    widens = True

    def __init__(self, max_temperature: int = 10) -> None:
        super().__init__()
        if not isinstance(max_temperature, int) or isinstance(max_temperature, bool) or max_temperature < 1:
            raise ConfigError(f"'max_temperature' is a whole number, at least 1; got {max_temperature!r}.")
        self.max_temperature = max_temperature

    def share(self, progress: float) -> float:
        """Return Φ, by which the teacher's logits are multiplied."""
        temperature = max(1, self.max_temperature - int(progress * self.max_temperature))
        return 1 - (temperature - 1) / self.max_temperature

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, progress: float = 0.0) -> Tensor:
        """Compare logits (B, C), (B, L, C), or (B, L) over positions; mask (B, L); progress of training in [0, 1]."""
        return logit_mse(student, self.share(progress) * widen(teacher), mask)

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, progress: float = 0.0) -> Tensor:
        """Return the number of samples, unmasked tokens or unmasked positions."""
        return count(student, mask, student.shape[:-1])
