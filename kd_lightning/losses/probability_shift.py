"""A teacher that is corrected where its own prediction is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from kd_lightning.core.errors import MatchError
from kd_lightning.functional.masking import blank
from kd_lightning.functional.temperatures import shifted
from kd_lightning.losses.base import WrappedLoss


class ProbabilityShift(WrappedLoss):
    """Another logits loss, given a teacher whose largest logit is the true label's: the two exchange their values.

    Wen et al. 2019 (1911.07471). Rows without a label (−100) keep the teacher as it is.

    Args:
        loss: any loss on logits, such as `SoftTarget`.

    Raises:
        ConfigError: if `loss` cannot be called.
        MatchError: if there are no labels, they are no classes, or have not the logits' shape without its last axis.

    Example:
        >>> import torch
        >>> from kd_lightning.losses import LogitMSE
        >>> loss = ProbabilityShift(LogitMSE())
        >>> loss(torch.tensor([[0.0, 4.0]]), torch.tensor([[4.0, 0.0]]), labels=torch.tensor([1]))
        tensor(0.)

    """

    def __init__(self, loss: Callable[..., Tensor]) -> None:
        super().__init__(loss)
        self.equal_widths = True

    def forward(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, labels: Tensor | None = None, **given: Any
    ) -> Tensor:
        """Compare logits (B, C), (B, L, C), or (B, L) over positions, under the labels of their rows; mask (B, L)."""
        if labels is None or labels.shape != teacher.shape[:-1]:
            got = "none" if labels is None else f"labels of shape {tuple(labels.shape)}"
            raise MatchError(
                f"ProbabilityShift needs a label for each row of logits of shape {tuple(teacher.shape)}, but got {got}."
            )
        if labels.is_floating_point():
            raise MatchError("ProbabilityShift needs labels that are classes, and these are numbers: use LogitMSE.")
        teacher = teacher.detach()
        if mask is not None and mask.shape == teacher.shape:  # a masked position is never the largest
            teacher = blank(teacher, mask, float("-inf"))
        return self.compare(student, shifted(teacher, labels), mask=mask, labels=labels, **given)

    def count(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, labels: Tensor | None = None, **given: Any
    ) -> Tensor | None:
        """Return what the inner loss counts."""
        return super().count(student, teacher, mask=mask, labels=labels, **given)
