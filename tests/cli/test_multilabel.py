"""Several labels per row, from what is typed to a student that has learnt them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate

from kd_lightning import losses
from kd_lightning.cli.configs import compose_config
from kd_lightning.metrics import Scores
from kd_lightning.pipeline.setup import TaskSetup, teacher_setup

from ..pipeline.making import task_settings

TOPICS = (("goal", "match", "team"), ("bank", "price", "share"), ("rain", "wind", "storm"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, write_rows: Any) -> Path:
    """The data set `topics`: texts about none to three things, each named by one of its words."""
    folder, draw = tmp_path_factory.mktemp("topics"), random.Random(0)
    for split, rows in (("train", 400), ("validation", 100)):
        labels = [[i for i in range(3) if draw.random() < 0.4] for _ in range(rows)]
        texts = [[draw.choice(TOPICS[i]) for i in row] + draw.choices(["the", "a", "of", "is"], k=4) for row in labels]
        for text in texts:
            draw.shuffle(text)
        write_rows(folder / "topics" / f"{split}.parquet", text=[" ".join(text) for text in texts], labels=labels)
    return folder


@pytest.fixture(scope="module")
def on_topics(root: Path) -> list[str]:
    own = ["data.name=topics", "data.num_labels=3", f"data.root={root}"]
    return ["data=go_emotions", *own, "teacher=tiny_random"]


def test_models_are_made_for_several_labels(on_topics: list[str]) -> None:
    settings = task_settings([*on_topics, "teacher.architecture.num_hidden_layers=2"])
    setup = teacher_setup(settings)
    teacher: Any = setup.fresh_teacher()
    single: Any = TaskSetup(settings, instantiate(task_settings(["data=sst2"]).task), setup.data).fresh_teacher()
    students: list[Any] = [setup.student(teacher), setup.student(single)]
    for model in (teacher, *students):
        assert (model.config.num_labels, model.config.problem_type) == (3, "multi_label_classification")
    assert single.config.problem_type is None


def test_learning_from_labels_alone_takes_several_labels_whatever_the_objective(on_topics: list[str]) -> None:
    assert isinstance(hard_loss(on_topics), losses.HardLabels)
    assert isinstance(hard_loss([*on_topics, "~objective.terms.hard"]), losses.HardLabels)
    assert type(hard_loss(["data=sst2", "~objective.terms.hard"])) is losses.HardLabel


def hard_loss(typed: list[str]) -> Any:
    settings = task_settings(typed)
    setup = TaskSetup(settings, instantiate(settings.task), None)  # type: ignore[arg-type]
    return setup.hard_objective().declared["hard"].loss


def test_logits_between_0_and_1_are_logits_to_the_metrics() -> None:
    cfg = compose_config(["data=go_emotions", "data.num_labels=2"])
    metrics = Scores(instantiate(cfg.task).metrics_for(None))
    all_yes = torch.tensor([[0.2, 0.9], [0.4, 0.1]])
    metrics.update({"logits": all_yes}, {"labels": torch.tensor([[1.0, 1.0], [1.0, 0.0]])})
    mostly_no = torch.tensor([[-3.0, 0.3], [-0.1, -9.0]])
    metrics.update({"logits": mostly_no}, {"labels": torch.tensor([[0.0, 0.0], [1.0, 0.0]])})
    found = {name: value.item() for name, value in metrics.compute().items()}
    one, other = 2 * 2 / (2 * 2 + 1), 2 * 1 / (2 * 1 + 2)  # 2 TP, a miss; 1 TP, two false alarms
    assert found == pytest.approx({"f1": 6 / 9, "macro_f1": (one + other) / 2, "accuracy": 5 / 8})


def test_a_student_learns_several_labels_from_its_teacher(on_topics: list[str], command: Any, tmp_path: Path) -> None:
    short = ["trainer.max_epochs=5", "teacher.trainer.max_epochs=5", "teacher.optimizer.lr=1e-3", "optimizer.lr=1e-3"]
    small = [
        "data.batch_size=8",
        "teacher.architecture.num_hidden_layers=2",
        "student=t3",
        "+student.num_hidden_layers=2",
    ]
    done = command(tmp_path, *on_topics, *short, *small, "temperature=1", "baseline=false", "hydra.run.dir=here")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "here" / "metrics.json").read_text())
    assert metrics["config"]["objective"]["terms"]["hard"]["weight"] == 0  # all it knows it has from the teacher
    for stage in ("teacher", "student"):
        assert set(metrics[stage]["metrics"]) == {"f1", "macro_f1", "accuracy"}
        assert metrics[stage]["metrics"]["f1"] > 0.9
    config = json.loads((tmp_path / "here" / "student" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"


def test_a_task_for_one_label_is_refused_before_anything_is_trained(on_topics: list[str], many: Any) -> None:
    fast = ["debug=fast", "teacher.architecture.num_hidden_layers=1"]
    found = many({"one": [*on_topics, "task=classification", *fast], "typed": [*on_topics, *fast]})
    assert "Rows of this data have several labels. Type task=multilabel." in found["one"]["error"]
    assert not list(found["one"]["folder"].rglob("*.ckpt"))
    assert (found["typed"]["code"], found["typed"]["error"]) == (0, "")
