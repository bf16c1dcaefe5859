"""The plan of FastBERT, and what is measured of a student with early exits."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig

import kd_lightning as kd
from kd_lightning.core.errors import ConfigError
from kd_lightning.models import early_exit
from kd_lightning.models.inspection import ExitPoint, exit_curve
from kd_lightning.pipeline import ExitCurve

from ..toys import bert, words
from .making import run_settings

EXITS = [
    "student=early_exit",
    "student.exit_width=8",
    "plan=fastbert",
    "match=[L4t_hidden_mse]",
    "plan.curve.timed_rows=4",
]
SMALL = ["data.limit=64", "teacher.architecture.num_hidden_layers=3", "teacher.architecture.hidden_size=16"]


@pytest.fixture(scope="module")
def runs(many: Any, on_films: list[str]) -> dict[str, Any]:
    few = [*on_films, *SMALL, "baseline=true"]
    return many(
        {
            "fastbert": [*few, *EXITS, "cache=true", "plan.curve.speeds=[0,0.5,1]"],
            "without_exits": [*few, "student=t3", "plan=fastbert", "match=[]"],
            "speeds": [*few, *EXITS, "plan.curve.speeds=[0,2]"],
        }
    )


@pytest.fixture(scope="module")
def run(runs: dict[str, Any]) -> Path:
    assert runs["fastbert"]["code"] == 0, runs["fastbert"]["error"]
    return Path(runs["fastbert"]["folder"])


def test_stages_and_terms_of_the_plan():
    settings = run_settings(
        ["experiment=sst2_t3", "student=early_exit", "plan=fastbert", "baseline=true", "cache=true"]
    )
    assert list(settings.plan) == ["teacher", "cache", "alone", "backbone", "student", "curve"]
    (backbone,), (student,) = (settings.of(name).tasks.values() for name in ("backbone", "student"))
    terms: Any = student.objective["terms"]
    assert [name for name, term in terms.items() if term is not None] == ["exits"]
    assert (backbone.cache, student.cache) == (True, False)
    assert student.strategy is not None
    assert (student.strategy["but"], backbone.strategy and backbone.strategy["modules"]) == (["exit"], ["exit"])
    kept: Any = backbone.objective["terms"]
    assert [name for name, term in kept.items() if term is not None] == ["hard", "logits"]
    assert (kept["hard"]["weight"], kept["logits"]["loss"]["temperature"]) == (1.0, settings.config["temperature"])
    kept: Any = backbone.objective["terms"]
    assert [name for name, term in kept.items() if term is not None] == ["hard", "logits"]
    assert (kept["hard"]["weight"], kept["logits"]["loss"]["temperature"]) == (1.0, settings.config["temperature"])
    epochs = settings.fitting.trainer["max_epochs"]
    assert settings.of("alone").fitting.trainer["max_epochs"] == epochs


def test_branches_are_all_that_the_last_stage_trains(run):
    before, after = (kd.load(place) for place in (run / "stages/backbone/student", run / "student"))
    assert type(after).__name__ == "EarlyExitBertForSequenceClassification"
    pairs = {name: torch.equal(x, after.state_dict()[name]) for name, x in before.state_dict().items()}
    assert not any(same for name, same in pairs.items() if name.startswith("exit.") and name.endswith("weight"))
    assert all(same for name, same in pairs.items() if not name.startswith("exit."))
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["student"]["metrics"] == metrics["backbone"]["metrics"]
    assert "alone" in metrics
    assert "curve" not in metrics


def test_the_curve_is_a_table_a_picture_and_a_result(run):
    folder = run / "stages" / "curve"
    rows = list(csv.DictReader((folder / "exit_curve.csv").open()))
    assert list(rows[0]) == ["speed", "accuracy", "depth", "ms_per_row_batch_1", "ms_per_row_batch_32"]
    assert [row["speed"] for row in rows] == ["0", "0.5", "1"]
    assert [float(rows[0]["depth"]), float(rows[2]["depth"])] == [3.0, 1.0]
    assert 1 <= float(rows[1]["depth"]) <= 3
    assert all(float(row[name]) > 0 for row in rows for name in rows[0] if name.startswith("ms"))
    assert (folder / "exit_curve.png").stat().st_size > 5000
    result = json.loads((folder / "result.json").read_text())
    assert (result["metric"], len(result["points"])) == ("accuracy", 3)
    metrics = json.loads((run / "metrics.json").read_text())
    whole = metrics["student"]["metrics"]["accuracy"]
    assert float(rows[0]["accuracy"]) == pytest.approx(whole, abs=1e-6)


def test_what_cannot_be_is_said_before_the_first_stage(runs):
    said = runs["without_exits"]
    assert said["code"] == 1
    assert "there is no module 'exit' in this BertForSequenceClassification" in said["error"].replace("There", "there")
    assert not (said["folder"] / "stages").exists()
    assert runs["speeds"]["code"] == 1
    assert "'plan.curve.speeds' are numbers in [0, 1]" in runs["speeds"]["error"] + runs["speeds"]["told"]


def test_a_stage_checks_its_student_and_the_number_of_tasks():
    settings = run_settings(["experiment=sst2_cola_t4tiny"])
    with pytest.raises(ConfigError, match="several"):
        ExitCurve("curve").check(settings, {})
    with pytest.raises(ConfigError, match="student=early_exit"):
        ExitCurve("curve").check(run_settings(["experiment=sst2_t3"]), {"student": {"": ({"": nn.Linear(2, 2)}, None)}})


# -- the function ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return early_exit(bert(3).config, exit_width=8).eval()


def test_scores_and_depths_are_those_of_all_rows(model):
    batches = [words(8, seed=1), words(4, length=5, seed=2)]
    points = exit_curve(model, batches, speeds=(0.0, 1.0), timed_rows=6, repeats=1, batch_sizes=(1, 4))
    assert [(point.speed, point.depth) for point in points] == [(0.0, 3.0), (1.0, 1.0)]
    right = 0
    with torch.no_grad():
        for batch in batches:
            inputs = {name: x for name, x in batch.items() if name != "labels"}
            right += int((model(**inputs).logits.argmax(-1) == batch["labels"]).sum())
    assert points[0].score == pytest.approx(right / 12)
    assert all(set(point.latency_ms) == {1, 4} and min(point.latency_ms.values()) > 0 for point in points)
    assert isinstance(points[0], ExitPoint)


def test_rows_are_timed_as_they_come_one_by_one_and_together(model, monkeypatch):
    seen: list[tuple[int, ...]] = []
    own = model.adaptive

    def recorded(speed: float, **inputs: Any) -> Any:
        seen.append(tuple(inputs["input_ids"].shape))
        return own(speed, **inputs)

    monkeypatch.setattr(model, "adaptive", recorded, raising=False)
    exit_curve(model, [words(8, length=6)], speeds=(0.5,), timed_rows=5, repeats=1, batch_sizes=(1, 2))
    every, *timed = seen
    assert every == (8, 6)
    assert timed[0] == timed[1] == (1, 6)  # the first of each size is not timed
    assert timed[1:6] == [(1, 6), (1, 4), (1, 6), (1, 4), (1, 6)]  # every second row ends in padding
    assert timed[7:] == [(2, 6), (2, 6), (1, 6)]


def test_another_score(model):
    score: Callable[..., float] = lambda logits, labels: float(len(labels))  # noqa: E731
    points = exit_curve(model, [words(6)], speeds=(0.3,), score=score, timed_rows=0)
    assert points[0].score == 6
    assert points[0].latency_ms == {}


def test_a_model_without_exits_and_no_rows(model):
    with pytest.raises(ConfigError, match="has no exits to measure"):
        exit_curve(bert(2), [words()])
    with pytest.raises(ConfigError, match="no rows"):
        exit_curve(model, [])


@pytest.mark.parametrize("options", [{"timed_rows": -1}, {"repeats": 0}, {"batch_sizes": [0]}, {"timed_rows": 2.5}])
def test_numbers_that_cannot_be(options):
    sizes = {"vocab_size": 30, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    model = kd.students.early_exit(BertConfig(**sizes), num_hidden_layers=2, num_labels=2, exit_width=4)
    batch = {"input_ids": torch.ones(1, 3, dtype=torch.long), "labels": torch.zeros(1, dtype=torch.long)}
    with pytest.raises(ConfigError, match=f"Expected argument `{next(iter(options))}`"):
        kd.inspection.exit_curve(model, [batch], **options)


@pytest.mark.parametrize("options", [{"timed_rows": -1}, {"timed_rows": 2.5}, {"speeds": [2]}])
def test_the_stage_refuses_numbers_before_anything_runs(options):
    with pytest.raises(ConfigError, match=r"'plan\.curve\.(timed_rows|speeds)'"):
        ExitCurve("curve", **options)
