"""Losses on logits that treat the true class and all others apart."""

from __future__ import annotations

from torch import Tensor

from kd_lightning.core.arguments import check_finite_number
from kd_lightning.functional.decoupled import dkd, nkd
from kd_lightning.losses.labelled import LabelledLoss
from kd_lightning.losses.options import check_positive


class DKD(LabelledLoss):
    """T² · mean over rows of α·KL(b_t ‖ b_s) + β·KL(n_t ‖ n_s). Decoupled distillation, Zhao et al. 2022 (2203.08679).

    b = (p_y, 1 − p_y) is how likely the true class y is, n the softmax of the other classes, both at temperature T. The
    usual loss is KL = KL(b_t ‖ b_s) + (1 − p_t,y)·KL(n_t ‖ n_s): of a teacher that is sure it teaches little about the
    other classes, and β undoes that. For image classification with a confident teacher. The authors add the hard
    labels, and let the weight rise over the first epochs: `schedule=kd.schedules.Warmup(share=0.1)`.

    Args:
        temperature: T.
        alpha: weight of the true class.
        beta: weight of the other classes: 1 to 8 in the paper, the larger the surer the teacher.

    Raises:
        ConfigError: if the temperature is not positive, or a weight is negative.
        MatchError: if shapes differ, or there is not one class per row.

    Example:
        >>> import torch
        >>> loss = DKD(temperature=1.0, alpha=1.0, beta=0.0)
        >>> loss(torch.zeros(1, 2), torch.tensor([[100.0, 0.0]]), labels=torch.tensor([0]))
        tensor(0.6931)

    """

    def __init__(self, temperature: float = 4.0, alpha: float = 1.0, beta: float = 8.0) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        check_finite_number("alpha", alpha, least=0)
        check_finite_number("beta", beta, least=0)
        self.temperature, self.alpha, self.beta = temperature, alpha, beta

    def forward(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """Compare logits (B, C) or (B, L, C) under labels (B,) or (B, L); mask (B, L)."""
        found = dkd(student, teacher, labels, self.alpha, self.beta, self.temperature, mask)
        return self.temperature**2 * found


class NKD(LabelledLoss):
    """−p_t,y log p_s,y − γ·T² Σ_{i≠y} n_t,i log n_s,i, mean over rows. Normalised distillation, 2303.13005, eq. 8.

    The true class as the teacher sees it, at T = 1, and the softmax n of the other classes at T: cross entropies, so
    the value has the teacher's entropy in it. For image classification, beside the hard labels.

    Args:
        temperature: T, of the other classes: 1 on ImageNet, 3 on CIFAR-100 in the authors' configurations.
        gamma: their weight: 1.5 and 3.5 there.

    Raises:
        ConfigError: if the temperature is not positive, or a weight is negative.
        MatchError: if shapes differ, or there is not one class per row.

    Example:
        >>> import torch
        >>> NKD()(torch.zeros(1, 2), torch.zeros(1, 2), labels=torch.tensor([0]))
        tensor(0.3466)

    """

    def __init__(self, temperature: float = 1.0, gamma: float = 1.5) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        check_finite_number("gamma", gamma, least=0)
        self.temperature, self.gamma = temperature, gamma

    def forward(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """Compare logits (B, C) or (B, L, C) under labels (B,) or (B, L); mask (B, L)."""
        return nkd(student, teacher, labels, self.gamma, self.temperature, mask)
