"""Which positions of a feature count: the only place where the batch's mask meets an address."""

from __future__ import annotations

from torch import Tensor

from kd_lightning.core.batch import field, logits_mask, token_mask
from kd_lightning.core.types import Batch

POSITION_LOGITS = ("start_logits", "end_logits")
"""Outputs whose last axis runs over token positions, not over classes."""


def feature_mask(address: str, feature: Tensor, batch: Batch) -> Tensor | None:
    """Return the (B, L) mask that goes with a feature, or None where every entry counts.

    Args:
        address: decides what the axes mean; shapes alone cannot tell (B, C) logits from (B, L) ones.
        feature: the tensor found there.
        batch: the whole batch; where each model has a part of its own, the student's mask counts.

    Returns:
        The attention mask for features with a token axis; None for (B, C) logits and for pooled features. For logits
        over tokens, (B, L, C), and over positions, (B, L): where the batch has a `logits_mask`, only where that says so
        too; else, for the former, only where labels, if they are (B, L) too, differ from −100.

    """
    mask = token_mask(batch)
    if mask is None or not has_token_axis(address, feature, mask):
        return None
    if address not in ("logits", *POSITION_LOGITS):
        return mask
    if (own := logits_mask(batch)) is not None and own.shape == mask.shape:
        return mask.bool() & own.bool()
    if address == "logits":
        labels = field(batch, "labels")
        if isinstance(labels, Tensor) and labels.shape == mask.shape:
            return mask.bool() & (labels != -100)
    return mask


def has_token_axis(address: str, feature: Tensor, mask: Tensor) -> bool:
    """Tell whether a feature of this name has an axis over the tokens of a (B, L) mask.

    Example:
        >>> import torch
        >>> mask = torch.ones(2, 3)
        >>> has_token_axis("logits", torch.zeros(2, 3), mask), has_token_axis("start_logits", torch.zeros(2, 3), mask)
        (False, True)

    """
    batch, length = mask.shape
    if feature.ndim == 2:
        return address in POSITION_LOGITS and feature.shape == mask.shape
    if feature.ndim == 3:
        return feature.shape[:2] == mask.shape
    return feature.ndim == 4 and feature.shape[0] == batch and feature.shape[2] == length
