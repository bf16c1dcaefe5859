"""Rows that are longer than a model takes are an error before any training; new models are made long enough."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torchmetrics import MeanMetric
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, RobertaConfig, RobertaModel

from kd_lightning.core.errors import ConfigError
from kd_lightning.metrics import Scores
from kd_lightning.models.bigru import bigru
from kd_lightning.pipeline.checks import check_positions, positions
from kd_lightning.pipeline.setup import TaskSetup, student_setup, teacher_setup

from .making import task_settings

SIZES = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
FEW = ["teacher=tiny_random", "teacher.architecture.num_hidden_layers=1", "student=t3", "match=[]", "data.limit=8"]


def bert(length: int) -> Any:
    return BertModel(BertConfig(**SIZES, max_position_embeddings=length))


def roberta(length: int) -> Any:
    return RobertaModel(RobertaConfig(**SIZES, pad_token_id=1, max_position_embeddings=length))


def distilbert(length: int) -> Any:
    sizes = {"vocab_size": 9, "dim": 8, "n_layers": 1, "n_heads": 1, "hidden_dim": 8}
    return DistilBertModel(DistilBertConfig(**sizes, max_position_embeddings=length))


@pytest.mark.parametrize(("make", "unused"), [(bert, 0), (roberta, 2), (distilbert, 0)])
def test_a_model_reads_just_as_many_tokens_as_it_has_positions(make: Any, unused: int) -> None:
    model = make(12).eval()
    longest = positions(model)
    assert longest == 12 - unused
    model(input_ids=torch.full((1, longest), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, longest + 1), 5))


def test_rows_that_are_too_long_are_refused_with_the_longest_that_fit() -> None:
    check_positions(roberta(12), SimpleNamespace(max_length=10), "teacher")
    with pytest.raises(ConfigError, match=r"11 tokens \(data\.max_length\), but the teacher takes 10.*max_length=10"):
        check_positions(roberta(12), SimpleNamespace(max_length=11), "teacher")
    recurrent: Any = bigru(BertConfig(vocab_size=50), hidden_size=8)
    check_positions(recurrent, SimpleNamespace(max_length=100_000), "student")
    check_positions(bert(12), SimpleNamespace(max_length=None), "student")  # rows are no tokens


def fresh(typed: list[str]) -> tuple[TaskSetup, Any]:
    """The setup of what is typed, and its teacher before fine-tuning."""
    settings = task_settings(typed)
    setup = teacher_setup(settings)
    return setup, setup.fresh_teacher()


def check(typed: list[str]) -> None:
    setup, teacher = fresh(typed)
    replace(setup, models={"teacher": teacher}).check(teacher)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_teacher_of_random_weights_reads_the_longest_rows(kind: str) -> None:
    made: Any = fresh(["data=synthetic", *FEW, f"teacher.architecture.model_type={kind}", "+data.max_length=1000"])[1]
    assert positions(made) == 1000
    made.eval()(input_ids=torch.full((1, 1000), 5))
    assert fresh(["data=synthetic", *FEW])[1].config.max_position_embeddings == 512


def test_before_training_teacher_and_student_are_both_checked() -> None:
    typed = ["data=synthetic", *FEW, "+data.max_length=60"]
    with pytest.raises(ConfigError, match=r"but the teacher takes 50 at most"):
        check([*typed, "+teacher.architecture.max_position_embeddings=50"])
    with pytest.raises(ConfigError, match=r"but the student takes 40 at most"):
        check([*typed, "+student.max_position_embeddings=40"])


F1 = "{_target_: torchmetrics.classification.MulticlassF1Score, num_classes: 7}"


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ([f"+task.metrics.f1={F1}"], "The metric 'f1' (MulticlassF1Score) cannot be computed of logits (2, 2) and"),
        (["+task.metrics.f1={_target_: builtins.str}"], "'task.metrics.f1' builds a str, and a metric is"),
        (["+teacher.architecture.vocab_size=5"], "The teacher has embeddings for 5 tokens, but its tokenizer has"),
        (["+student.vocab_size=5"], "'student.vocab_size' cannot be 5: this data makes it"),
        (["objective.terms.logits.weight=0", "objective.terms.hard.weight=0"], "Every term of the objective has weigh"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_training(typed: list[str], sentence: str) -> None:
    setup, teacher = fresh([*FEW, *typed])
    with pytest.raises(ConfigError) as found:
        student_setup(setup.settings, {"tiny": teacher}, setup.data.processor).check(teacher)
    assert sentence in str(found.value)


def test_a_metric_can_be_turned_off() -> None:
    setup, _ = fresh([*FEW, "+task.metrics.f1=null"])
    assert list(setup.task.metrics_for(setup.data)) == ["accuracy"]


class Broken(MeanMetric):
    """A metric of the user's with a mistake in it."""

    def update(self, *given: Any) -> None:
        raise IndexError("Dimension out of range")


def test_a_metric_with_a_mistake_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"The metric 'mine' \(Broken\) cannot be computed of logits \(2, 2\) and lab"
    ):
        Scores({"mine": Broken()}).update({"logits": torch.eye(2)}, {"labels": torch.tensor([0, 1])})
