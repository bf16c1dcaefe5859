"""Token-level augmentations of the training split: random changes that are functions of (seed, epoch, row) alone."""

from __future__ import annotations

from kd_lightning.data.augment.base import Augmentation
from kd_lightning.data.augment.deletion import Delete, Mask, NGramSample
from kd_lightning.data.augment.reorder import LongReorder, ShortReorder
from kd_lightning.data.augment.rows import AugmentedRows

__all__ = [
    "Augmentation",
    "AugmentedRows",
    "Delete",
    "LongReorder",
    "Mask",
    "NGramSample",
    "ShortReorder",
]
