"""A task is one object: its YAML and its class agree, and everything a run asks of it follows from it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra.utils import get_class, instantiate
from torch import nn

from kd_lightning.cli.configs import CONFIGS, compose_config
from kd_lightning.core.errors import ConfigError
from kd_lightning.data import DataModule
from kd_lightning.tasks import ClassificationTask, ImageClassificationTask, MultilabelTask, RegressionTask, Task

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


def of_positions(count: int) -> Any:
    model: Any = nn.Linear(2, 2)
    model.config = SimpleNamespace(max_position_embeddings=count)
    return model


def test_an_example_input_is_no_longer_than_the_models_positions() -> None:
    for model, length in ((of_positions(5), 5), (of_positions(500), 128), (nn.Linear(2, 2), 128)):
        found = Task("accuracy").example_input(model, Described(max_length=7))
        assert {name: tuple(value.shape) for name, value in found.items()} == {  # type: ignore[union-attr]
            "input_ids": (1, length), "attention_mask": (1, length),
        }  # fmt: skip


# -- images ----------------------------------------------------------------------------------------------------------

IMAGES = ImageClassificationTask("accuracy")


def of_images(size: Any) -> Any:
    model: Any = nn.Linear(2, 2)
    model.config = SimpleNamespace(image_size=size, num_channels=1)
    return model


@pytest.mark.parametrize(
    ("model", "data", "teacher", "shape"),
    [
        (nn.Linear(2, 2), None, False, (1, 3, 224, 224)),
        (of_images(16), None, False, (1, 1, 16, 16)),
        (of_images([16, 8]), Described(), False, (1, 1, 16, 8)),
        (of_images(16), Described(image_size=(4, 6)), False, (1, 1, 4, 6)),
        (nn.Linear(2, 2), Described(image_size=(4, 6)), True, (1, 3, 4, 6)),
        (nn.Linear(2, 2), Described(image_size=(4, 6), teacher_image_size=(8, 8)), True, (1, 3, 8, 8)),
        (nn.Linear(2, 2), Described(image_size=(4, 6), teacher_image_size=(8, 8)), False, (1, 3, 4, 6)),
    ],
)
def test_an_example_image_has_the_datas_size_else_the_models(
    model: Any, data: Any, teacher: bool, shape: tuple[int, ...]
) -> None:
    assert IMAGES.example_input(model, data, teacher)["pixel_values"].shape == shape


def test_builders_of_models_are_told_the_size_of_images() -> None:
    data = Described(image_size=(32, 32), teacher_image_size=(64, 48))
    assert data.input_options() == {"image_size": 32}
    assert data.input_options(teacher=True) == {"image_size": [64, 48]}
    assert Described(num_labels=3).input_options() == {}


def test_of_more_than_five_classes_a_label_among_the_first_five_counts_too() -> None:
    made = {classes: IMAGES.metrics_for(Described(num_labels=classes)) for classes in (5, 6)}
    assert (list(made[5]), list(made[6])) == ([], ["top5"])
    logits = torch.tensor([[6.0, 5, 4, 3, 2, 1]] * 4)
    made[6]["top5"].update(logits, torch.tensor([0, 4, 5, 5]))
    assert made[6]["top5"].compute() == 0.5


def test_predictions_of_images_are_names_of_classes(tmp_path: Path) -> None:
    recorder: Any = IMAGES.recorder(Described(classes=["cat", "dog"]))
    recorder.update({"logits": torch.eye(2)}, {"sample_id": torch.tensor([1, 0])})
    recorder.compute()
    assert recorder.write(tmp_path).read_text() == "index\tprediction\n0\tdog\n1\tcat\n"


def test_data_of_images_wants_their_task() -> None:
    with pytest.raises(ConfigError, match="Type task=image_classification"):
        ClassificationTask("accuracy").check_data(Described(head="image-classification"))
    IMAGES.check_data(Described(head="image-classification", num_labels=10))


def test_a_model_without_a_saved_processor_has_none(tmp_path: Path) -> None:
    assert IMAGES.saved_processor(tmp_path) is None
    assert ClassificationTask("accuracy").saved_processor(tmp_path) is None


def test_a_model_saved_without_its_image_processor_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert ImageClassificationTask("accuracy").saved_processor(tmp_path) is None  # a network of no configuration
    assert caplog.messages == []
    (tmp_path / "config.json").write_text("{}")
    assert ImageClassificationTask("accuracy").saved_processor(tmp_path) is None
    assert caplog.messages == [
        f"There is no image processor in {tmp_path} (preprocessor_config.json): its model gets images as the data "
        "makes them."
    ]
