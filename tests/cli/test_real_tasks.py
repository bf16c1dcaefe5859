"""Experiments on real data, two steps of each: the whole pipeline ends with the task's official metric."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TASKS: dict[str, set[str]] = {  # experiment → the metrics it must end with
    "rte_t3": {"accuracy"},
    "sick_t3": {"accuracy"},
    "stsb_t3": {"pearson", "spearman"},
    "chnsenticorp_t3": {"accuracy"},
    "cola_t3": {"accuracy", "matthews"},
    "conll2003_t3": {"f1", "precision", "recall", "accuracy"},
    "msra_ner_electra_small": {"f1", "precision", "recall", "accuracy"},
    "cmrc2018_t3": {"f1", "exact_match"},
    "mlm_t3": {"perplexity", "accuracy"},
}

MORE = {"mlm_t3": ["data.path=cola", "data.text=sentence", "data.tokenizer=train"]}
"""What else is typed."""


@pytest.fixture(scope="module")
def ran(many: Any, data_root: Path) -> dict[str, Any]:
    """Every experiment, carried out in two processes, one after the other."""
    fast = ["teacher=tiny_random", "debug=fast", "baseline=true", f"data.root={data_root}"]
    typed = {name: [f"experiment={name}", *fast, *MORE.get(name, [])] for name in TASKS}
    halves = (dict(list(typed.items())[start::2]) for start in (0, 1))
    return {name: result for half in halves for name, result in many(half).items()}


@pytest.mark.parametrize("name", TASKS)
def test_an_experiment_ends_with_the_official_metric(name: str, ran: dict[str, Any]) -> None:
    assert (ran[name]["code"], ran[name]["error"]) == (0, "")
    metrics = json.loads((ran[name]["folder"] / "metrics.json").read_text())
    for role in ("teacher", "alone", "student"):
        assert set(metrics[role]["metrics"]) == TASKS[name]
        assert all(math.isfinite(value) for value in metrics[role]["metrics"].values())


@pytest.mark.parametrize("name", ["rte_t3", "stsb_t3"])
def test_predictions_are_those_the_score_is_of(name: str, ran: dict[str, Any], data_root: Path) -> None:
    """Two batches were validated: their rows' predictions, scored by hand, give the score."""
    folder = ran[name]["folder"]
    labels = parquet.read_table(data_root / name.removesuffix("_t3") / "validation.parquet")["label"].to_pylist()
    header, *lines = (folder / "predictions" / "predictions.tsv").read_text().splitlines()
    assert header == "index\tprediction"
    guesses = {int(row): guess for row, guess in (line.split("\t") for line in lines)}
    found = json.loads((folder / "metrics.json").read_text())["student"]["metrics"]
    if name == "rte_t3":
        right = [guess == ("entailment", "not_entailment")[labels[row]] for row, guess in guesses.items()]
        assert found["accuracy"] == pytest.approx(sum(right) / len(right))
    else:
        stats = pytest.importorskip("scipy.stats")
        pairs = [(float(guess), labels[row]) for row, guess in guesses.items()]
        assert found["pearson"] == pytest.approx(stats.pearsonr(*zip(*pairs, strict=True))[0], abs=1e-3)
