"""What cannot be cached: rows that change from one look to the next, and teachers whose answers do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from kd_lightning.core.errors import CacheError
from kd_lightning.core.types import Batch, Features
from kd_lightning.functional.precision import widen

LOOKED_AT = 8
"""Rows that are asked for twice; of those that change half of the time, one in 250 data sets goes unnoticed here."""

TOLERANCE = 0.05
"""Of the norm of a feature: far above what another place in the batch does to half precision."""


def check_rows(dataset: Any) -> None:
    """Refuse rows that look different each time they are asked for.

    Raises:
        CacheError: they are augmented at random.

    """
    if getattr(dataset, "augment", None) or any(_changes(dataset, row) for row in range(LOOKED_AT)):
        raise CacheError(
            "These rows are augmented at random, and a cache holds what the teacher said of each row once. Leave the "
            "augmentation out, or use a live teacher."
        )


def reversed_rows(batch: Batch, rows: int) -> Batch:
    """Return a batch with its rows in reverse order."""
    return apply_to_collection(batch, Tensor, lambda x: x.flip(0) if x.ndim and len(x) == rows else x)


def check_features(features: Features, reverse: Features) -> None:
    """Refuse features that depend on the rows beside their own, or on chance.

    Args:
        features: of a batch.
        reverse: of the same rows in reverse order.

    Raises:
        CacheError: naming the feature.

    """
    for address, feature in features.items():
        one, other = (widen(x).nan_to_num() for x in (feature, reverse[address].flip(0)))
        if (one - other).norm() > TOLERANCE * one.norm() + 1e-6:
            raise CacheError(
                f"The teacher's '{address}' of a row changes with the order of the rows in a batch, or at random, and "
                "a cache holds it once. Match another feature, or use a live teacher."
            )


def _changes(dataset: Any, row: int) -> bool:
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__") or row >= len(dataset):
        return False
    try:
        one, other = dataset[row], dataset[row]
    except (KeyError, TypeError, IndexError, NotImplementedError):  # rows here do not go by numbers
        return False
    return not _equal(one, other)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, Tensor):
        return torch.equal(one.nan_to_num(), other.nan_to_num())
    if isinstance(one, np.ndarray | np.generic | float):
        numbers = np.asarray(one).dtype.kind in "fc"
        return np.array_equal(one, other, equal_nan=True) if numbers else np.array_equal(one, other)
    same = one == other
    return same if isinstance(same, bool) else True  # of what cannot say, a row's marks are what tells
