"""Losses that are not taught by a teacher: the batch's labels, and the model's own loss."""

from __future__ import annotations

from torch import Tensor

from kd_lightning.core.errors import ConfigError, MatchError
from kd_lightning.functional.hard_label import (
    counted_labels,
    hard_label,
    hard_label_multilabel,
    hard_label_regression,
)
from kd_lightning.functional.masking import count
from kd_lightning.functional.precision import widen
from kd_lightning.losses.base import DistillationLoss


class HardLabel(DistillationLoss):
    """Mean cross entropy of the student's logits with the batch's labels, which stand in the teacher's place.

    Equals a Hugging Face model's own loss for classification. Labels of −100 are ignored, and so are masked tokens.
    With start and end logits (B, L) and a mask of that shape, masked positions are left out of the softmax and labels
    that name one, or lie outside [0, L), are ignored. Without a mask the last axis is classes, and a label that is none
    of them is PyTorch's error.

    Labels and logits meet position by position: a causal model's labels must be shifted first, or its own loss used
    (`Match(student="loss")` with `Identity`).

    Args:
        label_smoothing: share in [0, 1) of the target that is spread evenly over all classes.
        multilabel: binary cross entropy, one 0/1 label per class.
        regression: squared error instead: labels are numbers, logits (B, 1) one value each.

    Raises:
        ConfigError: `label_smoothing` outside [0, 1), or options that exclude each other.
        MatchError: labels that do not have the logits' shape without its last axis.

    Example:
        >>> import torch
        >>> HardLabel()(torch.zeros(2, 4), torch.tensor([3, -100]))
        tensor(1.3863)

    """

    widens = True
    one_by_one = True

    def __init__(self, label_smoothing: float = 0.0, multilabel: bool = False, regression: bool = False) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"Expected argument `label_smoothing` to be in [0, 1) but got {label_smoothing!r}.")
        if regression and (multilabel or label_smoothing):
            raise ConfigError("Numbers have no classes: regression=True goes without multilabel and label_smoothing.")
        self.label_smoothing = label_smoothing
        self.multilabel = multilabel
        self.regression = regression

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare logits (B, C), (B, L, C), or (B, L) over positions, with labels; mask (B, L)."""
        if self.regression:
            return hard_label_regression(student, teacher, mask)
        function = hard_label_multilabel if self.multilabel else hard_label
        return function(student, teacher, mask, self.label_smoothing)

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the number of labels that count."""
        keep = counted_labels(student, teacher, mask, self.multilabel)
        return count(student, keep, keep.shape)


class Identity(DistillationLoss):
    """The student's tensor itself: `Match(student="loss")` makes the model's own task loss a term.

    Raises:
        MatchError: the tensor is not a scalar.

    Example:
        >>> import torch
        >>> Identity()(torch.tensor(0.5))
        tensor(0.5000)

    """

    widens = True

    def forward(self, student: Tensor, teacher: Tensor | None = None) -> Tensor:
        """Return the student's scalar."""
        if student.numel() != 1:
            raise MatchError(
                f"Identity passes on a scalar, such as a model's own loss, but got shape {tuple(student.shape)}."
            )
        return widen(student).reshape(())
