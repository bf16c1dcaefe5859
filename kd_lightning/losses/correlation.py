"""A loss on how probabilities correlate, rather than on what they are."""

from __future__ import annotations

from torch import Tensor

from kd_lightning.core.arguments import check_finite_number
from kd_lightning.functional.correlation import dist
from kd_lightning.losses.base import DistillationLoss
from kd_lightning.losses.options import check_choice, check_positive


class DIST(DistillationLoss):
    """T²·[β(1 − mean ρ over rows) + γ(1 − mean ρ over classes)], ρ Pearson's of softmaxes. Huang et al. 2022.

    2205.10536: a strong teacher's probabilities are hard to match exactly, and only how they rank and vary counts: over
    the classes of each row, and over the rows of each class. For teachers that are much larger than the student. Rows
    of all devices are gathered; of a single row the second part is 0. Of equal logits, as a new head of zeros gives
    them, the gradient is of the order of 10⁶: begin with other weights.

    Args:
        beta: weight of the relation between a row's classes.
        gamma: weight of the relation between a class's rows.
        temperature: T: the paper has 4 on CIFAR and 1 on ImageNet, with β = γ = 2.
        gather: whether the rows of all devices are one batch.

    Raises:
        ConfigError: if the temperature is not positive.
        MatchError: if shapes differ.

    Example:
        >>> import torch
        >>> z = torch.tensor([[0.0, 1.0, 3.0], [2.0, 0.0, 1.0]])
        >>> float(DIST()(z, z)) < 1e-4
        True

    """

    equal_widths = True
    per_address = True
    widens = True
    gather = True

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0, gather: bool = True) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        check_finite_number("beta", beta, least=0)
        check_finite_number("gamma", gamma, least=0)
        check_choice("gather", gather, (True, False))
        self.beta, self.gamma, self.temperature, self.gather = beta, gamma, temperature, gather

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare logits (B, C) or (B, L, C); mask (B, L)."""
        return self.temperature**2 * dist(student, teacher, self.beta, self.gamma, self.temperature, mask)
