from __future__ import annotations

import pytest
import torch
from torchmetrics import MetricCollection, PearsonCorrCoef
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from kd_lightning.core.errors import ConfigError
from kd_lightning.metrics import BatchMetric, Scores


class Rows(BatchMetric):
    """Counts rows, and records the width of a feature."""

    addresses = ("pooled",)
    score_names = ("rows", "width")

    def __init__(self):
        super().__init__()
        self.add_state("rows", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("width", torch.tensor(0), dist_reduce_fx="max")

    def update(self, features, batch):
        self.rows += len(batch["labels"])
        self.width = torch.tensor(features["pooled"].shape[1])

    def compute(self):
        return {"width": self.width, "rows": self.rows}


def scores():
    return Scores({"f1": MulticlassF1Score(2), "rows": Rows(), "accuracy": MulticlassAccuracy(2, average="micro")})


def test_metrics_of_both_kinds_are_updated_with_their_inputs():
    found = scores()
    assert found.addresses == ["logits", "pooled"]
    for labels in ([0, 1], [1]):
        logits = torch.tensor([[1.0, 0.0]] * len(labels))
        features = {"logits": logits.bfloat16(), "pooled": torch.zeros(len(labels), 5)}
        found.update(features, {"labels": torch.tensor(labels)})
    assert {name: float(value) for name, value in found.compute().items()} == {
        "f1": pytest.approx(0.25),  # of class 0: 2·1/(2·1 + 2) = ½, of class 1: 0
        "rows": 3,
        "width": 5,
        "accuracy": pytest.approx(1 / 3),
    }
    assert list(found.compute()) == found.names == ["f1", "rows", "width", "accuracy"]


def test_one_value_per_row_is_compared_with_one_label_per_row():
    found = Scores({"pearson": PearsonCorrCoef()})
    found.update({"logits": torch.tensor([[1.0], [2.0], [4.0]])}, {"labels": torch.tensor([2.0, 4.0, 8.0])})
    assert float(found.compute()["pearson"]) == pytest.approx(1.0)


def test_reset_clears_all_metrics():
    found = scores()
    found.update({"logits": torch.eye(2), "pooled": torch.zeros(2, 5)}, {"labels": torch.tensor([0, 1])})
    found.reset()
    found.update({"logits": torch.eye(2)[:1], "pooled": torch.zeros(1, 5)}, {"labels": torch.tensor([0])})
    assert (found.compute()["rows"], found.compute()["accuracy"]) == (1, 1)


def test_metrics_are_copied():
    mine = Rows()
    Scores({"rows": mine}).update({"pooled": torch.zeros(1, 5)}, {"labels": torch.zeros(1)})
    assert mine.rows == 0


def test_a_metric_collection_is_accepted():
    assert Scores(MetricCollection({"b": MulticlassAccuracy(2), "a": MulticlassAccuracy(2)})).names


def test_two_scores_of_one_name_raise():
    with pytest.raises(ConfigError, match="Two metrics compute a score named 'rows'"):
        Scores({"rows": MulticlassAccuracy(2), "others": Rows()})


def test_two_metrics_that_agree_on_the_first_batch_stay_two():
    found = Scores({f"top{k}": MulticlassAccuracy(3, top_k=k, average="micro") for k in (1, 2)})
    logits = torch.tensor([[3.0, 2.0, 1.0]])
    for label in (0, 1):  # first both are right, then the second one only
        found.update({"logits": logits}, {"labels": torch.tensor([label])})
    assert found.compute() == {"top1": 0.5, "top2": 1.0}
