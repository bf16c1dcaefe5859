"""What losses have in common that compare logits and need each row's class."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kd_lightning.functional.decoupled import labelled_rows
from kd_lightning.functional.masking import count
from kd_lightning.losses.base import DistillationLoss


class LabelledLoss(DistillationLoss):
    """Base of losses whose `forward(student, teacher, mask, labels)` compares the logits of rows that have a class."""

    equal_widths = True
    per_address = True
    widens = True
    needs_classes = True

    def count(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, labels: Tensor | None = None, **given: Any
    ) -> Tensor:
        """Return the number of rows, or unmasked tokens, that have a label."""
        return count(student, labelled_rows(type(self).__name__, student, teacher, labels, mask), student.shape[:-1])
