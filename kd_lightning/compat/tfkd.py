"""Tf-KD's hand-made teacher as its authors compute it: Yuan et al. 2020 (1909.11723).

The paper's teacher gives the true class 0.99 and the others an equal rest, at temperature T. The authors' code takes a
softmax of those *probabilities* over T, which at T = 20 and 100 classes gives the true class 0.0105: nearly uniform.
`HardLabel(label_smoothing=…)` says what it does, and is what to use in new work.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kd_lightning.core.errors import ConfigError
from kd_lightning.functional.hard_label import counted_labels
from kd_lightning.functional.masking import count, kl_divergence, masked_mean
from kd_lightning.losses.base import DistillationLoss
from kd_lightning.losses.options import check_positive


class Regularization(DistillationLoss):
    """Multiplier · mean over rows and classes of KL(softmax(u / T) ‖ softmax(z)), u the hand-made probabilities.

    `loss_kd_regularization` of the authors, without its cross entropy, which is another term: 1 − α and α are weights.

    Args:
        temperature: T, of the hand-made teacher alone.
        correct: its probability of the true class.
        multiplier: 100 in the authors' scripts for CIFAR-100; the mean is over classes too.

    Raises:
        ConfigError: if the temperature is not positive, or `correct` not in (0, 1).

    Example:
        >>> loss = Regularization(temperature=20.0, multiplier=1.0)
        >>> round(float(loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))), 4)
        0.2048

    """

    per_address = True

    def __init__(self, temperature: float = 20.0, correct: float = 0.99, multiplier: float = 100.0) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        if not 0 < correct < 1:
            raise ConfigError(f"Expected argument `correct` to be a probability in (0, 1) but got {correct!r}.")
        self.temperature, self.correct, self.multiplier = temperature, correct, multiplier

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare logits (B, C), or (B, L, C), with labels (B,), or (B, L); mask (B, L)."""
        keep, classes = counted_labels(student, teacher, mask), student.shape[-1]
        made = torch.full_like(student, (1 - self.correct) / (classes - 1)).detach()
        made = made.scatter(-1, teacher.masked_fill(~keep, 0).long()[..., None], self.correct)
        log_p = (made / self.temperature).log_softmax(-1)
        each = kl_divergence(log_p.exp(), log_p, student.log_softmax(-1)) / classes
        return self.multiplier * masked_mean(each, keep)

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the number of labels that count."""
        keep = counted_labels(student, teacher, mask)
        return count(student, keep, keep.shape)
