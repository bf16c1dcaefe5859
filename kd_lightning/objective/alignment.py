"""Comparing token features where student and teacher cut the text differently: word by word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from kd_lightning.core.errors import MatchError
from kd_lightning.core.types import Batch
from kd_lightning.functional.words import has_word, mean_by_word
from kd_lightning.objective.masks import POSITION_LOGITS
from kd_lightning.objective.match import Match


class WordIds(NamedTuple):
    """Which word each token is part of, numbered alike for both models; −1 for no common word."""

    student: Tensor
    teacher: Tensor


class Aligned(NamedTuple):
    """Features of both models by word, and which words there are: (B, W)."""

    student: list[Tensor]
    teacher: list[Tensor]
    mask: Tensor


def word_ids_of(batch: Batch) -> WordIds | None:
    """Return the batch's word ids, or None where both models eat the same tokens."""
    if not isinstance(batch, Mapping) or "student" not in batch or "teacher" not in batch:
        return None
    own, other = (batch[role].get("word_ids") if isinstance(batch[role], Mapping) else None for role in WordIds._fields)
    return WordIds(own, other) if isinstance(own, Tensor) and isinstance(other, Tensor) else None


def by_word(match: Match, student: list[Tensor], teacher: list[Tensor], ids: WordIds) -> Aligned | None:
    """Return token features (B, L, D) of both models as word features (B, W, D): means over each word's tokens.

    Returns:
        None where a side has no token axis, as logits (B, C) have none: there is nothing to align.

    Raises:
        MatchError: for attention maps, queries and the like, and for logits over positions.

    """
    sides = ((match.student_addresses, student, ids.student), (match.teacher_addresses, teacher, ids.teacher))
    for addresses, features, own in sides:
        for address, feature in zip(addresses, features, strict=True):
            if _has_tokens_elsewhere(address, feature, own):
                raise MatchError(
                    f"{match} cannot be compared across two tokenizers: '{address}' has shape {tuple(feature.shape)}, "
                    "and only features (batch, tokens, width), such as hidden states, are aligned by words."
                )
    if not all(_has_tokens(feature, own) for _, features, own in sides for feature in features):
        return None
    words = min(ids.student.shape[1], ids.teacher.shape[1])  # no side has more words than tokens
    mask = has_word(ids.student, words) & has_word(ids.teacher, words)
    pooled = [[mean_by_word(feature, own, words) for feature in features] for _, features, own in sides]
    return Aligned(pooled[0], pooled[1], mask)


def _has_tokens(feature: Tensor, ids: Tensor) -> bool:
    return feature.ndim == 3 and feature.shape[:2] == ids.shape


def _has_tokens_elsewhere(address: str, feature: Tensor, ids: Tensor) -> bool:
    positions = address.rpartition("/")[2] in POSITION_LOGITS
    return positions or (feature.ndim == 4 and feature.shape[0] == len(ids) and feature.shape[2] == ids.shape[1])
