"""Token-level augmentations of the training split: random changes that are functions of (seed, epoch, row) alone."""

from __future__ import annotations

from kd_lightning.data.augment.base import Augmentation
from kd_lightning.data.augment.reorder import LongReorder, ShortReorder
from kd_lightning.data.augment.rows import AugmentedRows
from kd_lightning.data.augment.thin import Delete, Mask, NGramSample

__all__ = [
    "Augmentation",
    "AugmentedRows",
    "Delete",
    "LongReorder",
    "Mask",
    "NGramSample",
    "ShortReorder",
]
