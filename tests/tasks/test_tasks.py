"""A task is one object: its YAML and its class agree, and everything a run asks of it follows from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hydra.utils import get_class, instantiate
from torch import nn

from kd_lightning.cli.configs import CONFIGS, compose_config
from kd_lightning.core.errors import ConfigError
from kd_lightning.data import DataModule
from kd_lightning.tasks import ClassificationTask, MultilabelTask, RegressionTask, Task

NAMES = sorted(file.stem for file in (CONFIGS / "task").glob("*.yaml"))


class Described(DataModule):
    def __init__(self, **members: Any) -> None:
        super().__init__()
        for name, value in members.items():
            setattr(self, name, value)


@pytest.mark.parametrize("name", NAMES)
def test_the_yaml_of_a_task_says_what_its_class_says(name: str) -> None:
    node = compose_config([f"task={name}"]).task
    task = instantiate(node)
    assert isinstance(task, Task)
    own = type(task)
    for loss in ("hard_loss", "soft_loss", "soft_cross_entropy"):
        assert get_class(node[loss]) is getattr(own, loss)
    for side, default in ((task.outputs, own.default_outputs), (task.labels, own.default_labels)):
        assert (side if isinstance(side, str) else tuple(side)) == default


@pytest.mark.parametrize("name", NAMES)
def test_the_terms_of_an_experiment_are_the_tasks(name: str) -> None:
    cfg = compose_config([f"task={name}"])
    task, terms = instantiate(cfg.task), instantiate(cfg.objective).declared
    (hard,) = task.hard_objective().declared.values()
    assert (terms["hard"].match, type(terms["hard"].loss)) == (hard.match, type(hard.loss))
    assert type(terms["logits"].loss) is get_class(cfg.task.soft_loss)


def test_models_are_told_the_labels() -> None:
    data = Described(num_labels=2, classes=["no", "yes"])
    options = ClassificationTask("accuracy").model_options(data)
    assert options == {
        "num_labels": 2, "problem_type": None, "id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1},
    }  # fmt: skip
    assert MultilabelTask("f1").model_options(data)["problem_type"] == "multi_label_classification"
    assert RegressionTask("pearson").model_options(Described(num_labels=1))["problem_type"] == "regression"


@pytest.mark.parametrize(
    ("task", "members", "words"),
    [
        (ClassificationTask, {"head": "token-classification"}, "Type task=tagging"),
        (ClassificationTask, {"multilabel": True}, "Type task=multilabel"),
        (ClassificationTask, {"regression": True}, "Type task=regression"),
        (RegressionTask, {}, "Type task=classification"),
        (ClassificationTask, {"num_labels": 1}, "two classes or more"),
    ],
)
def test_data_of_another_task_is_an_error(task: type[Task], members: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        task("accuracy").check_data(Described(**members))


def test_a_mode_is_one_of_two() -> None:
    with pytest.raises(ConfigError, match=r"'task\.mode' cannot be 'most': choose max or min"):
        Task("accuracy", mode="most")


def test_a_task_without_a_head_wants_models_by_target() -> None:
    with pytest.raises(ConfigError, match="give teacher and student a _target_"):
        Task("accuracy").auto_class()


def test_predictions_are_recorded_where_rows_are_in_a_file() -> None:
    assert ClassificationTask("accuracy").recorder(Described(writes_predictions=False)) is None
    recorder: Any = ClassificationTask("accuracy").recorder(Described(classes=["no", "yes"]))
    recorder.update({"logits": torch.eye(2)}, {"sample_id": torch.tensor([0, 1])})
    recorder.compute()
    assert recorder.predicted == {0: 0, 1: 1}


def test_an_example_input_is_on_the_models_device_and_no_longer_than_its_positions() -> None:
    found = Task("accuracy").example_input(nn.Linear(2, 2), length=5)
    assert {name: tuple(value.shape) for name, value in found.items()} == {  # type: ignore[union-attr]
        "input_ids": (1, 5), "attention_mask": (1, 5),
    }  # fmt: skip
