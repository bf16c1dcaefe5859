"""Relations within one layer of a transformer: between its tokens, and between its queries, keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from kd_lightning.core.errors import MatchError
from kd_lightning.core.types import FeatureInfo, Kind
from kd_lightning.functional.hidden import cosine_relation, token_mask
from kd_lightning.functional.maps import as_tokens
from kd_lightning.functional.masking import count, token_pairs
from kd_lightning.functional.token_relations import cross_relations
from kd_lightning.losses.base import DistillationLoss, OneFeatureLoss
from kd_lightning.losses.options import check_count

_NO_TOKENS: tuple[Kind, ...] = ("vector", "classes", "positions", "heads", "attention")


class CosineRelation(OneFeatureLoss):
    """Mean over pairs of unmasked tokens of (cos_s − cos_t)², cosines between the tokens of a layer. MiniViT, eq. 10.

    Zhang et al. 2022 (2204.07154): how tokens, or the pixels of a map, resemble each other; widths may differ. The
    authors multiply by 49, the tokens of one window, and weigh that by 0.1.

    Raises:
        MatchError: if features are heads or attention, or have other tokens.

    Example:
        >>> import torch
        >>> x = torch.randn(1, 3, 4)
        >>> float(CosineRelation()(x, 2 * x)) < 1e-9
        True

    """

    widens = True
    refuses: ClassVar[Mapping[Kind, str]] = dict.fromkeys(
        ("vector", "classes", "positions", "heads", "attention"), "address tokens, or a map"
    )

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare tokens (B, L, D_s) and (B, L, D_t), or maps (B, C, H, W) of one size; mask (B, L)."""
        return cosine_relation(student, teacher, mask)

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the number of pairs of unmasked tokens, or pixels."""
        batch, length, _ = as_tokens(student).shape
        mask = token_mask(student, mask)
        return count(student, None if mask is None else token_pairs(mask), (batch, length, length))


class CrossRelations(DistillationLoss):
    """Mean over ordered pairs (X, Y) of queries, keys and values of KL(R_t ‖ R_s), R = softmax(X Yᵀ / √d). MiniViT.

    Zhang et al. 2022 (2204.07154), eq. 8 and 9: nine relations of a layer, of which `SelfRelation` has three. The
    addresses are `query.k`, `key.k` and `value.k` of one layer, on both sides. Heads may differ in number and width.

    Args:
        relation_heads: into how many heads all are split anew; None takes the teacher's own count.

    Raises:
        ConfigError: if `relation_heads` is below 1.
        MatchError: if a side has one address, or lengths differ.

    Example:
        >>> import torch
        >>> x = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4)
        >>> CrossRelations()(x, x)
        tensor(0.)

    """

    widens = True

    def __init__(self, relation_heads: int | None = None) -> None:
        super().__init__()
        if relation_heads is not None:
            check_count("relation_heads", relation_heads)
        self.relation_heads = relation_heads

    def bind(self, student: tuple[FeatureInfo, ...], teacher: tuple[FeatureInfo, ...]) -> None:
        """Check before the first step that each side has several features, and as many.

        Raises:
            MatchError: if it has not.

        """
        if len(student) != len(teacher) or len(student) < 2:
            raise MatchError(
                f"CrossRelations relates query, key and value of a layer, but got {len(student)} of the student's "
                f"features and {len(teacher)} of the teacher's."
            )

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
        """Compare tuples of queries, keys and values, each (B, H, L, D); mask (B, L)."""
        return cross_relations(student, teacher, mask, self.relation_heads)

    def count(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
        """Return the number of unmasked rows."""
        return count(student[0], mask, (student[0].shape[0], student[0].shape[2]))
