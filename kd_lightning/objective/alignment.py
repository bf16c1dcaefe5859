"""Comparing token features where student and teacher tokenize the text differently: word by word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kd_lightning.core.errors import MatchError
from kd_lightning.core.types import Batch, Kind
from kd_lightning.functional.precision import matmul, widen
from kd_lightning.objective.masks import described, has_token_axis, kind_of
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
    """Return the batch's word ids, or None where both models get the same tokens."""
    if not isinstance(batch, Mapping) or "student" not in batch or "teacher" not in batch:
        return None
    own, other = (batch[role].get("word_ids") if isinstance(batch[role], Mapping) else None for role in WordIds._fields)
    return WordIds(own, other) if isinstance(own, Tensor) and isinstance(other, Tensor) else None


def by_word(
    match: Match,
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    ids: WordIds,
    kinds: tuple[Sequence[Kind | None], Sequence[Kind | None]] | None = None,
) -> Aligned | None:
    """Return token features (B, L, D) of both models as word features (B, W, D): means over each word's tokens.

    Args:
        match: the addresses of the features.
        student: its features.
        teacher: its features.
        ids: the word of each token.
        kinds: of the student's and the teacher's features, where the models' structures tell.

    Returns:
        None where a side has no token axis, as logits (B, C) have none: there is nothing to align.

    Raises:
        MatchError: for attention maps, queries and the like, and for logits over positions.

    """
    of_student, of_teacher = kinds or ([None] * len(student), [None] * len(teacher))
    sides = (
        (match.student_addresses, student, of_student, ids.student),
        (match.teacher_addresses, teacher, of_teacher, ids.teacher),
    )
    aligned = True
    for addresses, features, known, own in sides:
        for address, feature, kind in zip(addresses, features, known, strict=True):
            tokens = has_token_axis(address, feature, own, kind)
            if kind_of(address, feature, kind) == "positions" or (tokens and feature.ndim == 4):
                raise MatchError(
                    f"{match} cannot be compared across two tokenizers: '{address}' has "
                    f"{described(kind, feature.shape)}, and only features (batch, tokens, width), such as hidden "
                    "states, are aligned by words."
                )
            aligned &= tokens
    if not aligned:
        return None
    words = min(ids.student.shape[1], ids.teacher.shape[1])  # no side has more words than tokens
    mask = membership(ids.student, words).any(-1) & membership(ids.teacher, words).any(-1)
    pooled = [[mean_by_word(feature, own, words) for feature in features] for _, features, _, own in sides]
    return Aligned(pooled[0], pooled[1], mask)


def mean_by_word(x: Tensor, word_ids: Tensor, words: int) -> Tensor:
    """Return the mean of each word's tokens; zeros for a word that has none.

    Args:
        x: (B, L, D).
        word_ids: (B, L), the number of each token's word, or −1; what such tokens hold has no influence.
        words: how many words to return, W; higher numbers are left out.

    Returns:
        (B, W, D), in at least float32.

    Example:
        >>> mean_by_word(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[0, 0, -1]]), words=2).tolist()
        [[[2.0], [0.0]]]

    """
    member = membership(word_ids, words)
    share = member / member.sum(-1, keepdim=True).clamp(min=1)
    x = widen(x).masked_fill((word_ids < 0)[..., None], 0.0)
    return matmul(share.to(x.dtype), x)  # a product adds in a fixed order


def membership(word_ids: Tensor, words: int) -> Tensor:
    """Return which token is part of which word: (B, W, L), true or false.

    Example:
        >>> membership(torch.tensor([[0, 0, -1]]), words=2).int().tolist()
        [[[1, 1, 0], [0, 0, 0]]]

    """
    return word_ids[:, None, :] == torch.arange(words, device=word_ids.device)[None, :, None]
