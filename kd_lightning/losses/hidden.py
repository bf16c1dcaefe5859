"""Losses on hidden states; masked tokens count for nothing. Different widths need a projection."""

from __future__ import annotations

from torch import Tensor

from kd_lightning.functional.hidden import hidden_cosine, hidden_mse, pkd, token_mask
from kd_lightning.functional.masking import count
from kd_lightning.losses.base import Compat, DistillationLoss, check_compat


class HiddenMSE(DistillationLoss):
    """Mean over unmasked tokens and the width of (h_s − h_t)². The same as TextBrewer's `hidden_mse`.

    Raises:
        MatchError: shapes that do not belong together.

    Example:
        >>> import torch
        >>> HiddenMSE()(torch.ones(1, 2, 4), torch.zeros(1, 2, 4), torch.tensor([[1, 0]]))
        tensor(1.)

    """

    equal_widths = True
    widens = True

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare hidden states (B, L, D), or (B, D); mask (B, L)."""
        return hidden_mse(student, teacher, mask)

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the number of unmasked tokens."""
        return count(student, token_mask(student, mask), student.shape[:-1])


class HiddenCosine(DistillationLoss):
    """Mean over unmasked tokens of 1 − cos(h_s, h_t). DistilBERT, 1910.01108; the same as TextBrewer's `cos`.

    Raises:
        MatchError: shapes that do not belong together.

    Example:
        >>> import torch
        >>> HiddenCosine()(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
        tensor(1.)

    """

    equal_widths = True
    widens = True

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare hidden states (B, L, D), or (B, D); mask (B, L)."""
        return hidden_cosine(student, teacher, mask)

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the number of unmasked tokens."""
        return count(student, token_mask(student, mask), student.shape[:-1])


class PKD(DistillationLoss):
    """Mean over samples of ‖h_s/‖h_s‖ − h_t/‖h_t‖‖² at the first unmasked token. 1908.09355, eq. 7 for one layer.

    The paper's own code divides by the width too: its value is ours / D.

    Args:
        compat: "textbrewer" takes position 0 whatever the mask; the same unless padding is on the left.

    Raises:
        ConfigError: an unknown `compat`.
        MatchError: shapes that do not belong together.

    Example:
        >>> import torch
        >>> PKD()(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
        tensor(2.)

    """

    equal_widths = True
    widens = True

    def __init__(self, compat: Compat = None) -> None:
        super().__init__()
        check_compat(compat)
        self.compat: Compat = compat

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare hidden states (B, L, D), or vectors (B, D) of a token already chosen; mask (B, L)."""
        return pkd(student, teacher, None if self.compat else mask)

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the number of samples that have an unmasked token."""
        mask = None if self.compat else token_mask(student, mask)
        return count(student, None if mask is None else mask.bool().any(-1), student.shape[:1])
