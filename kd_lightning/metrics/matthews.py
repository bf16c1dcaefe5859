"""Matthews' correlation coefficient."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassMatthewsCorrCoef


class MatthewsCorrCoef(MulticlassMatthewsCorrCoef):
    """Matthews' correlation of classes, 0 where all answers or all labels are one class, as scikit-learn defines it.

    torchmetrics 1.9 gives other values in that case, such as −0.58 or −1, as if a collapsed model had learnt something.

    Args:
        num_classes: number of classes.
        options: further arguments of `MulticlassMatthewsCorrCoef`.

    Example:
        >>> metric = MatthewsCorrCoef(num_classes=2)
        >>> float(metric(torch.tensor([0, 0, 0]), torch.tensor([0, 1, 1])))
        0.0
        >>> float(metric(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 1])))
        1.0

    """

    def compute(self) -> Tensor:
        """Return the correlation, a scalar from −1 to 1."""
        counts = self.confmat.double()
        right, total = counts.trace(), counts.sum()
        labels, answers = counts.sum(1), counts.sum(0)
        spread = (total**2 - (answers**2).sum()) * (total**2 - (labels**2).sum())
        value = (right * total - (answers * labels).sum()) / spread.sqrt()
        return torch.where(spread > 0, value, 0.0).float()
