"""Curricula: which rows an epoch has, and how difficult a teacher finds them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

import kd_lightning as kd
from kd_lightning.core.errors import ConfigError, DataError
from kd_lightning.data import Curriculum, CurriculumBatches, RowDataModule
from kd_lightning.pipeline.difficulty import difficulties, of_batch


def batches(rows: int = 10, size: int = 3, **options: Any) -> CurriculumBatches:
    order = np.random.default_rng(0).permutation(rows).astype(float)
    return CurriculumBatches([1] * rows, size, Curriculum(start=0.3, epochs=5), order, **options)


@pytest.mark.parametrize("epoch", range(8))
def test_an_epoch_has_the_easiest_rows_as_often_as_each_other(epoch):
    made = batches()
    made.set_epoch(epoch)
    found = Counter(row for rows in made for row in rows)
    share = min(1.0, 0.3 + 0.7 * epoch / 5)
    easiest = np.argsort(np.random.default_rng(0).permutation(10))[: int(np.ceil(share * 10))]
    assert set(found) == set(easiest.tolist())
    assert sum(found.values()) == 10
    assert max(found.values()) - min(found.values()) <= 1
    assert len(made) == 4


def test_from_the_last_epoch_on_every_row_comes_once():
    made = batches()
    made.set_epoch(5)
    assert sorted(row for rows in made for row in rows) == list(range(10))


def test_an_epoch_is_a_function_of_its_number():
    one, other = batches(seed=4), batches(seed=4)
    list(one)
    for made in (one, other):
        made.set_epoch(1)
    assert list(one) == list(other)


class Rows(RowDataModule):
    num_labels = 3

    def make_rows(self, split: str) -> list[dict[str, Any]]:
        return [{"x": float(i), "labels": i % 3} for i in range(7)]


class Table(kd.TeacherSource):
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits

    @property
    def info(self) -> Any:
        raise AssertionError

    def ask(self, addresses: Any) -> None:
        assert list(addresses) == ["logits"]

    def __call__(self, batch: Any) -> Any:
        return {"logits": self.logits[batch["sample_id"]]}


@pytest.mark.parametrize("by", ["loss", "entropy"])
def test_difficulties_are_the_teachers(by):
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    found = difficulties(Rows(batch_size=2), Table(logits), by)
    p = logits.double().softmax(-1).numpy()
    expected = [-np.log(p[i, i % 3]) if by == "loss" else -(p[i] * np.log(p[i])).sum() for i in range(7)]
    assert found == pytest.approx(expected, rel=1e-5)


def test_difficulties_of_tokens_are_means_over_those_that_count():
    logits = torch.zeros(2, 3, 2)
    logits[0, 0, 0] = 3.0
    labels = torch.tensor([[0, 1, -100], [-100, -100, -100]])
    found = of_batch(logits, {"labels": labels}, "loss")
    assert float(found[0]) == pytest.approx((np.log(1 + np.exp(-3.0)) + np.log(2)) / 2, rel=1e-5)
    assert torch.isnan(found[1])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    entropy = of_batch(logits, {"attention_mask": mask}, "entropy")
    assert float(entropy[1]) == pytest.approx(np.log(2), rel=1e-5)


def test_rows_come_in_the_order_of_the_data_module():
    data = Rows(batch_size=7)
    data.order_by(Curriculum(start=0.3, epochs=10), np.arange(7)[::-1].astype(float))
    (batch,) = data.train_dataloader()
    assert set(batch["sample_id"].tolist()) == {4, 5, 6}


def test_a_row_without_a_class_is_an_error():
    class Unlabelled(Rows):
        def make_rows(self, split: str) -> list[dict[str, Any]]:
            return [{"x": 1.0, "labels": -100 if i == 2 else 0} for i in range(4)]

    with pytest.raises(DataError, match="Row 2 has no difficulty"):
        difficulties(Unlabelled(batch_size=2), Table(torch.zeros(4, 3)), "loss")


def test_numbers_have_no_loss_of_classes():
    with pytest.raises(DataError, match="curriculum=entropy"):
        of_batch(torch.zeros(2, 1), {"labels": torch.tensor([0.5, 1.0])}, "loss")


@pytest.mark.parametrize(
    ("options", "said"),
    [({"by": "length"}, "loss or entropy"), ({"start": 0.0}, "share of the rows"), ({"epochs": 0}, "number of epochs")],
)
def test_settings_that_cannot_be(options, said):
    with pytest.raises(ConfigError, match=said):
        Curriculum(**options)
