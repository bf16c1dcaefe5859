"""Soft targets whose rows count by what both models, or the teacher alone, make of them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from kd_lightning.functional.decoupled import cross_entropies, labelled_rows
from kd_lightning.functional.logits import Divergence, check_logits, count_rows, entries, soft_target
from kd_lightning.functional.masking import blank, masked_log_softmax
from kd_lightning.functional.precision import widen
from kd_lightning.losses.base import DistillationLoss
from kd_lightning.losses.labelled import LabelledLoss
from kd_lightning.losses.options import check_positive

EPS = 1e-7
"""What is added to the teacher's cross entropy."""


class WSLD(LabelledLoss):
    """T² · mean over rows of w·KL(p_t ‖ p_s), w = 1 − exp(−CE_s / (CE_t + 1e-7)). Zhou et al. 2021 (2102.00650).

    Weighted soft labels: a row counts as far as the student is still worse at it than the teacher, by the cross
    entropies with the label at T = 1; w has no gradient. For image classification, beside the hard labels.

    Args:
        temperature: T, of both in the divergence.

    Raises:
        ConfigError: if the temperature is not positive.
        MatchError: if shapes differ, or there is not one class per row.

    Example:
        >>> import torch
        >>> z = torch.tensor([[2.0, 0.0]])
        >>> WSLD(temperature=2.0)(z, z, labels=torch.tensor([0]))
        tensor(0.)

    """

    divergence: ClassVar[Divergence] = "kl"

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        self.temperature = temperature

    def forward(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """Compare logits (B, C) or (B, L, C) under labels (B,) or (B, L); mask (B, L)."""
        keep = labelled_rows("WSLD", student, teacher, labels, mask)
        with torch.no_grad():
            own, target = (cross_entropies("WSLD", x, labels, keep) for x in (student, teacher))
            weight = 1 - torch.exp(-own / (target + EPS))
        return self.temperature**2 * soft_target(
            student, teacher, self.temperature, divergence=self.divergence, mask=keep, weight=weight
        )


class TTM(DistillationLoss):
    """Mean over rows of KL(softmax(z_t / T) ‖ softmax(z_s)): the teacher alone is tempered, no T². Zheng & Yang 2024.

    2402.11148: transformed teacher matching; leaving the student at temperature 1 is distillation with a Rényi entropy
    as regulariser. `SoftTarget(temperature=1, teacher_temperature=T)` is T times this. `weighted` is the paper's WTTM:
    each row counts by Σ_c p_t,c^{1/T}, which is larger where the teacher is unsure.

    Args:
        temperature: T, of the teacher.
        weighted: whether rows are weighted.

    Raises:
        ConfigError: if the temperature is not positive.
        MatchError: if shapes differ.

    Example:
        >>> import torch
        >>> TTM(temperature=2.0)(torch.zeros(1, 2), torch.zeros(1, 2))
        tensor(0.)

    """

    equal_widths = True
    per_address = True
    widens = True

    def __init__(self, temperature: float = 4.0, weighted: bool = False) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        self.temperature, self.weighted = temperature, weighted

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare logits (B, C), (B, L, C), or (B, L) over positions; mask (B, L)."""
        check_logits("TTM", student, teacher, mask)
        weight = self._weights(teacher.detach(), mask) if self.weighted else None
        return soft_target(student, teacher, 1.0, self.temperature, mask=mask, weight=weight)

    def _weights(self, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """Return Σ_c p_c^{1/T} of each row, by logarithms."""
        log_p = masked_log_softmax(blank(widen(teacher), mask), entries(teacher, mask))
        return (log_p / self.temperature).logsumexp(-1).exp()

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the number of rows or unmasked tokens."""
        return count_rows(student, mask)
