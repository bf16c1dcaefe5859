from __future__ import annotations

import pytest
import torch
from torch import nn

from kd_lightning.core.errors import ConfigError
from kd_lightning.models.inspection.cost import compare, cost, latency_ms
from kd_lightning.tasks import ClassificationTask

from ..toys import bert, mlp, same, weights, words

TASK = ClassificationTask("accuracy")


def test_multiply_adds_of_a_net_are_those_by_hand():
    assert cost(mlp(5), (torch.zeros(3, 4), None)).multiply_adds == 3 * (4 * 5 + 5 * 3)


def test_a_transformer_is_measured_on_a_batch_without_its_labels():
    model, batch = bert(2, width=16), words(rows=2, length=6)
    found = cost(model, batch)
    tokens, width = 2 * 6, 16
    linear = tokens * (4 * width * width + 2 * width * 2 * width)
    attention = 2 * 2 * 6 * 6 * width
    head = 2 * (width * width + width * 3)
    assert found.multiply_adds == 2 * (linear + attention) + head
    assert found.latency_ms > 0


@pytest.mark.parametrize("training", [True, False])
def test_a_model_stays_in_the_mode_it_was_in(training):
    model = mlp(5).train(training)
    cost(model, (torch.zeros(3, 4), None))
    assert model.training is training


def test_measuring_leaves_running_statistics_alone():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).train()
    before = weights(model)
    cost(model, (torch.randn(8, 4), None))
    assert same(before, weights(model))


def test_each_module_is_put_back_in_its_own_mode():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).train()
    model[1].eval()
    cost(model, (torch.randn(8, 4), None))
    assert [model.training, model[0].training, model[1].training] == [True, True, False]


def test_a_model_that_raises_is_put_back_too():
    model = mlp(5)
    with pytest.raises(RuntimeError):
        cost(model, (torch.zeros(3, 99), None))
    assert model.training


def test_a_table_has_teacher_students_and_ratios():
    models = {"teacher": nn.Linear(4, 8), "a": nn.Linear(4, 4), "b": nn.Linear(4, 2)}
    table = compare(models, (torch.zeros(1, 4), None)).splitlines()
    assert table[0].split() == ["teacher", "a", "b"]
    assert table[1].split() == ["parameters", "40", "20", "×2.0", "10", "×4.0"]
    assert table[3].split() == ["multiply", "adds", "32", "16", "×2.0", "8", "×4.0"]


def test_zero_repeats_are_refused():
    with pytest.raises(ConfigError, match="`repeats`"):
        cost(mlp(5), (torch.zeros(1, 4), None), repeats=0)


def test_latency_is_measured_on_example_inputs_by_name_or_position():
    assert latency_ms(bert(2), TASK.example_input(bert(2)), repeats=2) > 0
    assert latency_ms(mlp(5), (torch.zeros(1, 4),), repeats=2) > 0


def test_a_model_that_cannot_be_called_with_the_inputs_has_no_latency(caplog):
    assert latency_ms(mlp(5), TASK.example_input(mlp(5))) is None
    assert "No latency for Sequential" in caplog.text


def test_a_token_example_is_no_longer_than_the_model_has_positions_for():
    assert TASK.example_input(bert(2))["input_ids"].shape == (1, 16)
    assert TASK.example_input(mlp(5))["attention_mask"].shape == (1, 128)
