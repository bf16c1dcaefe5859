"""What the axes of a feature mean: which mask of the batch goes with it, and which labels.

The only place that decides so. A feature's kind is known from the model (`FeatureInfo.kind`); where it is not, the
address and the tensor's shape decide.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

from kd_lightning.core.batch import field, logits_mask, token_mask
from kd_lightning.core.types import Batch, Kind

POSITION_LOGITS = ("start_logits", "end_logits")
"""Outputs whose last axis runs over token positions, not over classes."""

LABELS_OF = {"start_logits": "start_positions", "end_logits": "end_positions"}
"""What the labels of an output are called in the batch, where not `labels`."""

TOKEN_AXES: dict[Kind, tuple[int, int]] = {
    "tokens": (3, 1),
    "classes": (3, 1),
    "positions": (2, 1),
    "heads": (4, 2),
    "attention": (4, 2),
}
"""How many axes a feature with tokens has, and which of them runs over the tokens. Classes (B, C) have no tokens."""

_PER_HEAD = re.compile(r"(query|key|value)\.\d+$")


def kind_of(address: str, feature: Tensor, known: Kind | None = None) -> Kind | None:
    """Return what the axes of a feature mean.

    Args:
        address: shapes alone cannot distinguish (B, C) logits from (B, L) ones.
        feature: the tensor found there.
        known: its kind, where it is known from the model's structure.

    Returns:
        None where neither model nor address nor shape decide: four axes of a module's output may be tokens or pixels.

    Example:
        >>> import torch
        >>> x = torch.zeros(2, 3)
        >>> kind_of("logits", x), kind_of("start_logits", x), kind_of("pooler", x), kind_of("pooler", x, "positions")
        ('classes', 'positions', 'vector', 'positions')

    """
    name = address.rpartition("/")[2]
    if known is not None:
        return known
    if name in POSITION_LOGITS:
        return "positions"
    if name == "logits":
        return "classes"
    if feature.ndim == 4 and _PER_HEAD.search(name):
        return "heads"
    kinds: dict[int, Kind] = {0: "scalar", 2: "vector", 3: "tokens"}
    return kinds.get(feature.ndim)


def has_token_axis(address: str, feature: Tensor, mask: Tensor, known: Kind | None = None) -> bool:
    """Return whether a feature has an axis over the tokens of a (B, L) mask. Arguments are those of `kind_of`.

    Example:
        >>> import torch
        >>> mask = torch.ones(2, 3)
        >>> has_token_axis("logits", torch.zeros(2, 3), mask), has_token_axis("start_logits", torch.zeros(2, 3), mask)
        (False, True)

    """
    kind = kind_of(address, feature, known)
    axes, tokens = (4, 2) if kind is None else TOKEN_AXES.get(kind, (None, 0))
    return feature.ndim == axes and (feature.shape[0], feature.shape[tokens]) == mask.shape


def feature_mask(
    address: str, feature: Tensor, batch: Batch, known: Kind | None = None, decoder: bool = False
) -> Tensor | None:
    """Return the (B, L) mask that goes with a feature, or None where every entry counts.

    Args:
        address: the student's address.
        feature: the tensor found there.
        batch: the whole batch; where each model has its own sub-batch, the student's mask counts.
        known: the feature's kind, where it is known from the model's structure.
        decoder: whether it is of an encoder-decoder's decoder. Where the batch has tokens of its own for that, or
            labels for each, its attention mask is `decoder_attention_mask`; else the encoder's counts.

    Returns:
        The attention mask for features with a token axis; None for others, such as (B, C) logits and pooled features.
        For logits over tokens, (B, L, C), and over positions, (B, L): where the batch has a `logits_mask`, only where
        that is true too; else, for the former, only where labels, if they are (B, L) too, differ from −100. Without an
        attention mask, only the latter count.

    """
    mask = _decoder_mask(batch) if decoder else token_mask(batch)
    if mask is not None and not has_token_axis(address, feature, mask, known):
        return None
    kind = kind_of(address, feature, known)
    labels = field(batch, "labels") if kind == "classes" else None
    counted = [logits_mask(batch) if kind in ("classes", "positions") else None]
    counted += [labels != -100 if isinstance(labels, Tensor) and labels.ndim == 2 else None]
    for chosen in counted:
        if chosen is not None and has_token_axis(address, feature, chosen, known):
            return chosen.bool() if mask is None else mask.bool() & chosen.bool()
    return mask


def _decoder_mask(batch: Batch) -> Tensor | None:
    own = field(batch, "decoder_attention_mask")
    tokens = [field(batch, name) for name in ("decoder_input_ids", "labels")]
    if own is None and not any(isinstance(x, Tensor) and x.ndim == 2 for x in tokens):
        return token_mask(batch)
    return own


def labels_of(address: str, batch: Batch) -> Tensor | None:
    """Return the batch's labels of an output, or None where it has none."""
    return field(batch, LABELS_OF.get(address, "labels"))


def described(kind: Kind | None, shape: Sequence[int]) -> str:
    """Return how an error calls a feature: its kind, where it is known, and its shape.

    Example:
        >>> described("map", (2, 8, 7, 7)), described(None, (2, 8))
        ("kind 'map' and shape (2, 8, 7, 7)", 'shape (2, 8)')

    """
    return f"shape {tuple(shape)}" if kind is None else f"kind '{kind}' and shape {tuple(shape)}"
