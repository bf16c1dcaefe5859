"""Tf-KD's hand-made teacher against a loop, and what it is beside label smoothing."""

from __future__ import annotations

import math

import pytest
import torch

import kd_lightning as kd
from kd_lightning.compat.tfkd import Regularization
from kd_lightning.core.errors import ConfigError


def by_hand(logits: list[list[float]], labels: list[int], temperature: float, multiplier: float) -> float:
    """Mean over rows and classes of the divergence from a softmax of probabilities, as the authors' code has it."""
    total, classes = 0.0, len(logits[0])
    for row, label in zip(logits, labels, strict=True):
        made = [0.99 if k == label else 0.01 / (classes - 1) for k in range(classes)]
        p = [math.exp(x / temperature) for x in made]
        p = [x / sum(p) for x in p]
        norm = math.log(sum(math.exp(z) for z in row))
        total += sum(x * (math.log(x) - (z - norm)) for x, z in zip(p, row, strict=True))
    return multiplier * total / (len(logits) * classes)


@pytest.mark.parametrize(("temperature", "multiplier"), [(20.0, 100.0), (1.0, 1.0)])
def test_it_is_that_of_a_loop(temperature, multiplier):
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 3, 1, 1, 2])
    found = Regularization(temperature, multiplier=multiplier)(logits, labels)
    assert float(found) == pytest.approx(by_hand(logits.tolist(), labels.tolist(), temperature, multiplier), rel=1e-9)


def test_rows_without_a_label_do_not_count():
    logits, labels = torch.randn(3, 4), torch.tensor([1, -100, 2])
    loss = Regularization()
    assert float(loss(logits, labels)) == pytest.approx(float(loss(logits[[0, 2]], labels[[0, 2]])), rel=1e-6)
    assert float(loss.count(logits, labels)) == 2.0


def test_as_a_term_beside_the_labels():
    terms = {
        "hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel(), weight=0.9),
        "made": kd.Term(kd.Match("logits", "labels"), Regularization(), weight=0.1),
    }
    module = kd.DistillationModule(torch.nn.Linear(4, 3), None, kd.Objective(terms))
    assert module.compare({"input": torch.randn(2, 4), "labels": torch.tensor([0, 2])}).total.requires_grad


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"correct": 1.0}])
def test_numbers_that_cannot_be(options):
    with pytest.raises(ConfigError):
        Regularization(**options)
