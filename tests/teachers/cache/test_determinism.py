from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset

from kd_lightning.core.errors import CacheError
from kd_lightning.teachers.cache.forecast import check_features, check_rows, reversed_rows


class Numbered(IterableDataset[Any]):
    """A stream that knows how long it is."""

    def __iter__(self) -> Any:
        return iter([1, 2])

    def __len__(self) -> int:
        return 2


class Flipped:
    """Rows as image folders give them: half of the time mirrored."""

    def __init__(self, make: Any) -> None:
        self.make = make
        self.random = random.Random(0)

    def __len__(self) -> int:
        return 30

    def __getitem__(self, row: int) -> Any:
        values = np.arange(5.0) + row
        return self.make(values[::-1] if self.random.random() < 0.5 else values)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: (torch.tensor(x.copy()), 1),
        lambda x: {"x": x, "y": 1},
        lambda x: {"x": {"z": x.tolist()}},
        lambda x: [np.float64(x[0])],
        lambda x: "".join(map(str, x)),
    ],
    ids=["tensor", "array", "nested", "scalar", "text"],
)
def test_rows_that_change_are_detected(make):
    with pytest.raises(CacheError, match="augmented at random"):
        check_rows(Flipped(make))


@pytest.mark.parametrize(
    "dataset",
    [
        [float("nan"), torch.tensor([float("nan"), 1.0]), np.array([np.nan]), None, "a", {1, 2}, object()],
        {"train": 1, "test": 2},
        None,
        Numbered(),
        [torch.tensor([True]), torch.tensor([1])],
        [],
        [{"input_ids": torch.ones(2, 3), "names": ["a"], "array": np.array(["a", "b"])}],
    ],
)
def test_other_data_sets_pass(dataset):
    check_rows(dataset)


def test_features_that_depend_on_other_rows_are_detected():
    x = torch.randn(4, 6)
    batch = reversed_rows({"x": x, "more": [x, "text"], "scale": torch.ones(())}, 4)
    assert torch.equal(batch["x"], x.flip(0))
    assert torch.equal(batch["more"][0], x.flip(0))
    check_features({"own": 2 * x}, {"own": 2 * batch["x"]})
    for name, feature in {
        "similarity": lambda x: x @ x.T,
        "chance": torch.rand_like,
        "rank": lambda x: x.cumsum(0),
    }.items():
        with pytest.raises(CacheError, match=rf"The teacher's '{name}' of a row changes"):
            check_features({name: feature(x)}, {name: feature(batch["x"])})


def test_features_with_infinities_pass():
    x = torch.tensor([[1.0, float("-inf")], [float("nan"), 2.0]])
    check_features({"scores.1": x}, {"scores.1": x.flip(0)})
