"""Selection and report are apart: what is chosen on held-out rows, and what `metrics.json` has of both."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

import kd_lightning as kd
from kd_lightning.cli import train as command
from kd_lightning.cli.configs import compose_config
from kd_lightning.pipeline import run
from kd_lightning.pipeline.build import build_trainer, fit, quiet_trainer
from kd_lightning.pipeline.evaluate import evaluate
from kd_lightning.teachers import TeacherCache

from .making import run_settings


class Turning(kd.data.RowDataModule):
    """Numbers whose sign is their class in training and validation; in `selection` it is the other way round."""

    num_labels = 2
    available_splits = ("train", "selection", "validation")  # type: ignore[assignment]

    def make_rows(self, split: str) -> Any:
        x = torch.linspace(-1, 1, 40)
        labels = (x < 0) if split == "selection" else (x > 0)
        return [{"input": value[None], "labels": int(label)} for value, label in zip(x, labels, strict=True)]


class Remember(Callback):
    """Keeps the weights at the end of every epoch."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self.weights.append(module.student.weight.detach().clone())


def accuracy(weight: Tensor, split: str) -> float:
    rows = Turning().make_rows(split)
    right = [int((weight @ row["input"]).argmax()) == row["labels"] for row in rows]
    return sum(right) / len(right)


def learner(weight: float) -> kd.DistillationModule:
    """Return a module that finds the sign of a number, or its contrary where the weight is above zero."""
    student = nn.Linear(1, 2, bias=False)
    student.weight.data = torch.tensor([[weight], [-weight]])
    objective = kd.Objective({"hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel())})
    metrics = {"accuracy": MulticlassAccuracy(2, average="micro")}
    return kd.DistillationModule(student, None, objective, partial(torch.optim.SGD, lr=0.2), metrics=metrics)


def test_the_checkpoint_is_the_best_on_the_held_out_rows_and_not_on_validation(tmp_path: Path) -> None:
    fitting = run_settings(["trainer.max_epochs=4", "callbacks.progress=null"]).fitting
    data, module = Turning(batch_size=8), learner(0.6)  # the wrong way round, until some epochs are over
    trainer, remember = build_trainer(fitting, tmp_path), Remember()
    trainer.callbacks.append(remember)
    fit(module, data, trainer, tmp_path)
    chosen = [accuracy(weight, "selection") for weight in remember.weights]
    reported = [accuracy(weight, "validation") for weight in remember.weights]
    assert chosen.index(max(chosen)) != reported.index(max(reported))
    assert torch.equal(module.student.weight, remember.weights[chosen.index(max(chosen))])
    found = evaluate(quiet_trainer(fitting), module, data, tmp_path, {"": None})
    assert found["selection"]["accuracy"] == pytest.approx(max(chosen))
    assert found["metrics"]["accuracy"] == pytest.approx(reported[chosen.index(max(chosen))])


class Plain(Turning):
    """The same without rows to choose on."""

    available_splits = ("train", "validation")  # type: ignore[assignment]


def test_a_task_that_holds_nothing_out_has_its_validation_scores_in_both(tmp_path: Path) -> None:
    module = kd.MultiTaskModule({"one": learner(-1.0), "two": learner(-1.0)})
    data = kd.data.MultiTask({"one": Turning(), "two": Plain()})
    found = evaluate(quiet_trainer(run_settings([]).fitting), module, data, tmp_path, {})
    assert found["metrics"] == {"mean": 1.0, "one/accuracy": 1.0, "two/accuracy": 1.0}
    assert found["selection"] == {"mean": 0.5, "one/accuracy": 0.0, "two/accuracy": 1.0}


# -- runs --------------------------------------------------------------------------------------------------------------

SMALL = [f"teacher.architecture.{shape}" for shape in ("num_hidden_layers=2", "hidden_size=16", "intermediate_size=16")]
SMALL += ["teacher.architecture.num_attention_heads=2", "debug=fast", "callbacks.progress=null"]


@pytest.fixture(scope="module")
def held(films_root: Path, own_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run with a fifth of 256 rows held out: its folder and its metrics."""
    folder = tmp_path_factory.mktemp("held") / "run"
    films = ["data=sst2", "data.name=films", f"data.root={films_root}", "teacher=tiny_random", "data.holdout=0.2"]
    typed = [*films, *SMALL, "baseline=true", "cache=true", "trainer.limit_train_batches=null"]
    return folder, run(run_settings(typed), folder)


def test_metrics_json_has_the_scores_on_both(held: tuple[Path, dict[str, Any]]) -> None:
    folder, metrics = held
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    for role in ("teacher", "alone", "student"):
        assert set(metrics[role]) == {"metrics", "selection", "parameters", "latency_ms"}
        assert set(metrics[role]["metrics"]) == set(metrics[role]["selection"]) == {"accuracy"}


def test_predictions_are_of_the_rows_that_are_reported(held: tuple[Path, dict[str, Any]]) -> None:
    written = [str(file.relative_to(held[0])) for file in sorted(held[0].rglob("predictions.tsv"))]
    assert written == [
        "predictions/predictions.tsv",
        "stages/alone/predictions/predictions.tsv",
        "stages/teacher/predictions/predictions.tsv",
    ]
    lines = (held[0] / written[0]).read_text().splitlines()
    assert len(lines) == 1 + 60


def test_no_cache_has_outputs_of_held_out_rows(held: tuple[Path, dict[str, Any]]) -> None:
    (folder,) = json.loads((held[0] / "stages/cache/result.json").read_text())["folders"].values()
    root = held[1]["config"]["data"]["root"]
    data = kd.data.TextClassification("films", "sentence", root=root, holdout=0.2, limit=256)
    trained = len(data.tables("train")[0][0])
    assert trained + len(data.tables("selection")[0][0]) == 256
    assert trained < 256
    assert TeacherCache(folder).sample_ids.tolist() == list(range(trained))


@pytest.mark.slow
def test_several_tasks_have_a_mean_of_what_each_is_chosen_on(own_cache: Path, tmp_path: Path) -> None:
    typed = ["+data@tasks.b=synthetic", "data.holdout=0.25", *SMALL, "data.limit=64", "+tasks.b.data.limit=64"]
    metrics = run(run_settings([*typed, "baseline=false"]), tmp_path / "run")
    for role in ("teacher", "student"):
        chosen, reported = metrics[role]["selection"], metrics[role]["metrics"]
        assert set(chosen) == set(reported) == {"mean", "synthetic/accuracy", "b/accuracy"}
        assert chosen["b/accuracy"] == reported["b/accuracy"]  # its own validation rows
        assert chosen["mean"] == pytest.approx(np.mean([chosen["synthetic/accuracy"], chosen["b/accuracy"]]))


@pytest.mark.parametrize(("entry", "objective"), [({"selection": {"accuracy": 0.6}}, 0.6), ({}, 0.9)])
def test_a_search_looks_at_the_held_out_rows(
    entry: dict[str, Any], objective: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = {"student": {"metrics": {"accuracy": 0.9}, **entry}}
    monkeypatch.setattr(sys.modules["kd_lightning.pipeline.run"], "run", lambda settings, folder: found)
    assert command._job(compose_config([]), tmp_path) == objective
