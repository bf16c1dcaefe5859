"""Losses on how the tokens of a sequence relate inside a layer."""

from __future__ import annotations

from torch import Tensor

from kd_lightning.core.errors import ConfigError
from kd_lightning.functional.masking import count
from kd_lightning.functional.relation import self_relation
from kd_lightning.losses.base import DistillationLoss


class SelfRelation(DistillationLoss):
    """Mean over relation heads and unmasked rows of KL(R_t ‖ R_s), R = softmax(X Xᵀ / √d). MiniLMv2, 2012.15828.

    X is any of `query.k`, `key.k`, `value.k`, with heads put side by side and split anew, so that head counts may
    differ, also under grouped attention. The paper adds the three with equal weights: three terms.

    Args:
        relation_heads: into how many heads both models' X is split; it must divide both widths H·D. None takes the
            teacher's own count (of the tensor given: fewer for grouped keys and values). The paper splits finer, 48 for
            teachers of width 768 and 64 for 1024, and finds that this helps.

    Raises:
        ConfigError: `relation_heads` below 1.
        MatchError: other lengths, or a width that cannot be split so.

    Example:
        >>> import torch
        >>> x = torch.randn(1, 2, 3, 4)
        >>> SelfRelation(relation_heads=4)(x, x)
        tensor(0.)

    """

    widens = True

    def __init__(self, relation_heads: int | None = None) -> None:
        super().__init__()
        if relation_heads is not None and relation_heads < 1:
            raise ConfigError(f"Expected argument `relation_heads` to be at least 1 but got {relation_heads!r}.")
        self.relation_heads = relation_heads

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare queries, keys or values (B, H, L, D); mask (B, L)."""
        return self_relation(student, teacher, mask, self.relation_heads)

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the number of unmasked rows."""
        return count(student, mask, (student.shape[0], student.shape[2]))
