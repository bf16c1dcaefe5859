"""A teacher that is corrected where its own prediction is wrong."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kd_lightning.core.errors import MatchError
from kd_lightning.functional.masking import blank
from kd_lightning.functional.temperatures import shifted
from kd_lightning.losses.base import DistillationLoss, textbrewer_mask


class ProbabilityShift(DistillationLoss):
    """Another logits loss, given a teacher whose largest logit is the true label's: the two exchange their values.

    Wen et al. 2019 (1911.07471). Rows without a label (−100) keep the teacher as it is.

    Args:
        loss: any loss on logits, such as `SoftTarget`.

    Raises:
        MatchError: without labels, or labels that do not have the logits' shape without its last axis.

    Example:
        >>> import torch
        >>> from kd_lightning.losses import LogitMSE
        >>> loss = ProbabilityShift(LogitMSE())
        >>> loss(torch.tensor([[0.0, 4.0]]), torch.tensor([[4.0, 0.0]]), labels=torch.tensor([1]))
        tensor(0.)

    """

    equal_widths = True

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    @property
    def one_by_one(self) -> bool:  # type: ignore[override]
        """What several addresses mean to the inner loss."""
        return bool(getattr(self.loss, "one_by_one", False))

    @property
    def widens(self) -> bool:  # type: ignore[override]
        """Whether the inner loss widens what it is given; an exchange of values needs no width."""
        return bool(getattr(self.loss, "widens", False))

    @property
    def scheduled(self) -> bool:
        """Whether the inner loss changes over training."""
        return bool(getattr(self.loss, "scheduled", False))

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        labels: Tensor | None = None,
        progress: float = 0.0,
    ) -> Tensor:
        """Compare logits (B, C), (B, L, C), or (B, L) over positions, under the labels of their rows; mask (B, L)."""
        own = {"progress": progress} if self.scheduled else {}
        return self.loss(student, self._corrected(student, teacher, mask, labels), mask, **own)

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor | None:
        """Return what the inner loss counts."""
        inner = getattr(self.loss, "count", None)
        return inner(student, teacher, mask) if callable(inner) else None

    def _corrected(self, student: Tensor, teacher: Tensor, mask: Tensor | None, labels: Tensor | None) -> Tensor:
        if labels is None or labels.shape != teacher.shape[:-1]:
            got = "none" if labels is None else f"labels of shape {tuple(labels.shape)}"
            raise MatchError(
                f"ProbabilityShift needs a label for each row of logits of shape {tuple(teacher.shape)}, but got {got}."
            )
        mask = textbrewer_mask(getattr(self.loss, "compat", None), teacher, mask)
        positions = mask is not None and mask.shape == teacher.shape
        return shifted(blank(teacher.detach(), mask, float("-inf")) if positions else teacher.detach(), labels)
