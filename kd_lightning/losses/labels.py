"""Losses on classes: of the batch's labels, which stand in the teacher's place, of the teacher, and the model's own."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from kd_lightning.core.arguments import is_finite_number
from kd_lightning.core.errors import ConfigError, MatchError
from kd_lightning.functional.hard_label import counted_labels, hard_label, hard_labels, label_mse
from kd_lightning.functional.logits import check_logits, count_rows, entries
from kd_lightning.functional.masking import blank, count
from kd_lightning.functional.precision import widen
from kd_lightning.losses.base import DistillationLoss
from kd_lightning.losses.options import refuse_removed

_FROM_HARD_LABEL = {
    "multilabel": "kd.losses.HardLabels where each row has several labels of 0 or 1",
    "regression": "kd.losses.LabelMSE where labels are numbers",
}


class _LabelLoss(DistillationLoss):
    """A mean over the labels that count."""

    widens = True
    per_address = True
    several: ClassVar[bool] = False
    """Whether every row has a label for each class."""

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the number of labels that count."""
        keep = counted_labels(student, teacher, mask, self.several)
        return count(student, keep, keep.shape)


class HardLabel(_LabelLoss):
    """Mean cross entropy of the student's logits with the batch's labels: one class per row.

    Labels may be probabilities of the classes too, of the logits' shape, as those of mixed images are.

    Equals a Hugging Face model's own loss for classification. Labels of −100 are ignored, and so are masked tokens.
    With start and end logits (B, L) and a mask of that shape, masked positions are left out of the softmax and labels
    that name one, or lie outside [0, L), are ignored. Without a mask the last axis is classes, and a label that is none
    of them is PyTorch's error.

    Labels and logits are compared position by position: a causal model's labels must be shifted first, or its own loss
    used (`Match(student="loss")` with `Identity`).

    Args:
        label_smoothing: share in [0, 1) of the target that is spread evenly over all classes.

    Raises:
        ConfigError: if `label_smoothing` is outside [0, 1).
        MatchError: if the labels do not have the logits' shape without its last axis, or are not integers, and are no
            probabilities of that shape.

    Example:
        >>> import torch
        >>> HardLabel()(torch.zeros(2, 4), torch.tensor([3, -100]))
        tensor(1.3863)

    """

    def __init__(self, label_smoothing: float = 0.0, **removed: Any) -> None:
        refuse_removed(type(self), removed, _FROM_HARD_LABEL)
        super().__init__()
        self.label_smoothing = _checked(label_smoothing)

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare logits (B, C), (B, L, C), or (B, L) over positions, with labels; mask (B, L)."""
        return hard_label(student, teacher, mask, self.label_smoothing)


class HardTeacher(DistillationLoss):
    """Mean cross entropy of the student's logits with the class that the teacher gives the largest logit.

    Hard distillation, Touvron et al. 2021 (2012.12877), section 4: half of it from the class token against the labels,
    half of this from the distillation token. Also for pseudo-labels of rows that have none.

    Args:
        label_smoothing: share in [0, 1) of the target that is spread evenly over all classes.

    Raises:
        ConfigError: if `label_smoothing` is outside [0, 1).
        MatchError: if shapes differ.

    Example:
        >>> import torch
        >>> HardTeacher()(torch.zeros(1, 4), torch.tensor([[0.0, 3.0, 1.0, 2.0]]))
        tensor(1.3863)

    """

    equal_widths = True
    per_address = True
    widens = True

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = _checked(label_smoothing)

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare logits (B, C), (B, L, C), or (B, L) over positions; mask (B, L)."""
        check_logits("HardTeacher", student, teacher, mask)
        classes = blank(teacher.detach(), entries(teacher, mask), float("-inf")).argmax(-1)
        return hard_label(student, classes, mask, self.label_smoothing)

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the number of rows or unmasked tokens."""
        return count_rows(student, mask)


class HardLabels(_LabelLoss):
    """Mean binary cross entropy of the student's logits with several labels per row, each 0, 1 or a probability.

    Equals a Hugging Face model's own loss for multi-label classification. Labels of −100 are ignored.

    Args:
        label_smoothing: moves every target towards ½ by this share, in [0, 1).

    Raises:
        ConfigError: if `label_smoothing` is outside [0, 1).
        MatchError: if the labels do not have the logits' shape.

    Example:
        >>> import torch
        >>> HardLabels()(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 1.0]]))
        tensor(0.6931)

    """

    several = True

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = _checked(label_smoothing)

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare logits (B, C) or (B, L, C) with labels of that shape; mask likewise, or (B, L)."""
        return hard_labels(student, teacher, mask, self.label_smoothing)


class LabelMSE(_LabelLoss):
    """Mean squared error of the student's outputs, one value per row, against labels that are numbers (regression).

    Labels of −100 are ignored, and so are masked tokens.

    Raises:
        MatchError: if there is more than one value per row, or the labels have another shape.

    Example:
        >>> import torch
        >>> LabelMSE()(torch.tensor([[2.0], [5.0]]), torch.tensor([4.0, -100.0]))
        tensor(4.)

    """

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare values (B, 1), or (B, L, 1), with labels (B,), or (B, L); mask (B, L)."""
        return label_mse(student, teacher, mask)


class Identity(DistillationLoss):
    """The student's tensor itself: `Match(student="loss")` makes the model's own task loss a term.

    Raises:
        MatchError: if the tensor is not a scalar.

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


def _checked(label_smoothing: float) -> float:
    """Return a share in [0, 1), or raise `ConfigError`."""
    if not is_finite_number(label_smoothing) or not 0 <= label_smoothing < 1:
        raise ConfigError(f"Expected argument `label_smoothing` to be in [0, 1) but got {label_smoothing!r}.")
    return label_smoothing
