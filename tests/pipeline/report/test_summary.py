"""What is printed before and after a run, read as text from an 80-column console."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from torch import nn

from kd_lightning.core.types import FeatureInfo
from kd_lightning.losses import NST
from kd_lightning.objective import MatchScheme, Objective, Term
from kd_lightning.objective.match import Match
from kd_lightning.objective.schedules import Warmup
from kd_lightning.pipeline.report.results import Metric, main_metric, share_kept
from kd_lightning.pipeline.report.summary import final_table, startup


class Body:
    """A model as an objective sees it: so many layers, so wide."""

    def __init__(self, layers: int, width: int) -> None:
        self._layers, self._width = layers, width

    def layers(self, stack: str = "") -> int:
        return self._layers

    def feature(self, address: str) -> FeatureInfo:
        return FeatureInfo(width=self.width(address))

    def width(self, address: str) -> int:
        return self._width if address.startswith("hidden") else 2

    def check(self, addresses: Any) -> None:
        pass


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=80)


def printed(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined]


def objective() -> Objective:
    terms = {
        "logits": Term(Match("logits", "logits"), nn.MSELoss(), weight=0.25, schedule=Warmup(share=0.2)),
        "hidden_mse": MatchScheme("hidden", nn.MSELoss(), embeddings=True, projection="tanh"),
        "pair": Term(Match(["hidden.1", "hidden.1"], ["hidden.3", "hidden.3"]), NST()),
    }
    return Objective(terms).bind(Body(2, 5), Body(6, 7))


def begin(console: Console, **changed: Any) -> str:
    told: dict[str, Any] = {
        "teacher_name": "bert_base",
        "teacher_size": 109_483_778,
        "student_name": "t4tiny",
        "student_size": 14_350_874,
        "objective": objective(),
        "data": {"name": "sst2", "train": 67349, "validation": 872},
        "trainer": {"epochs": 3, "steps": None, "precision": "bf16-mixed", "devices": 2},
    }
    startup(console, **(told | changed))
    return printed(console)


def test_the_summary_says_who_is_frozen_and_who_learns(console: Console) -> None:
    text = begin(console)
    assert "bert_base, 109 M parameters, frozen" in text
    assert "t4tiny, 14.4 M parameters, trainable" in text
    assert "3, 126 parameters, trainable" in text  # three layers of 5 · 7 + 7


def test_the_summary_counts_data_and_leaves_out_what_is_not_known(console: Console) -> None:
    text = begin(console)
    assert "sst2 · train 67,349 · validation 872" in text
    assert "epochs 3 · precision bf16-mixed · devices 2" in text


def test_every_term_is_a_row_with_match_loss_weight_schedule_and_projection(console: Console) -> None:
    lines = begin(console).splitlines()
    logits = next(line for line in lines if line.strip().startswith("logits"))
    assert all(part in logits for part in ("logits ← logits", "MSELoss", "0.25", "× Warmup(share=0.2)"))
    hidden = next(line for line in lines if "hidden_mse_2" in line)
    assert all(part in hidden for part in ("hidden.2 ← hidden.6", "5→7, tanh"))
    assert any("hidden.1 ×2" in line for line in lines)


def test_the_summary_fits_eighty_columns(console: Console) -> None:
    assert max(map(len, begin(console).splitlines())) <= 80


def test_a_run_without_a_teacher_does_not_speak_of_one(console: Console) -> None:
    hard = Objective({"hard": Term(Match("logits", "labels"), nn.CrossEntropyLoss())})
    text = begin(console, teacher_name=None, teacher_size=None, objective=hard)
    assert "teacher" not in text
    assert "projections" not in text


def test_a_teacher_of_unknown_size_is_named_without_one(console: Console) -> None:
    assert "bert_base, frozen" in begin(console, teacher_size=None)


def test_square_brackets_in_a_name_are_printed_as_they_are(console: Console) -> None:
    assert "[bold]x, frozen" in begin(console, teacher_name="[bold]x", teacher_size=None)


def results(student: float = 0.88, alone: float | None = 0.80, mode: str = "max") -> dict[str, Any]:
    def entry(value: float, size: int) -> dict[str, Any]:
        return {"metrics": {"accuracy": value, "f1": value / 2}, "parameters": size, "latency_ms": 4.25}

    found = {"teacher": entry(0.92, 109_483_778), "student": entry(student, 14_350_874)}
    if alone is not None:
        found["alone"] = entry(alone, 14_350_874)
    seconds = {"teacher": 0, "cache": 12.3, "alone": 345.1, "student": 4412.0}
    return {**found, "seconds": seconds, "config": {"task": {"metric": "accuracy", "mode": mode}}}


def test_the_final_table_compares_the_three_models(console: Console) -> None:
    final_table(console, results())
    lines = printed(console).splitlines()
    teacher, alone, distilled = (line for line in lines if " M " in line)
    assert all(part in teacher for part in ("teacher", "0.9200", "0.4600", "109 M", "4.2 ms", "reused"))
    assert all(part in alone for part in ("student alone", "0.8000", "87.0 %", "14.4 M", "5 m 45 s"))
    assert all(part in distilled for part in ("student distilled", "0.8800", "95.7 %", "1 h 13 m"))
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("student", "mode", "sentence"),
    [
        (0.88, "max", "Distilled beats alone by 0.0800 accuracy (0.8800 against 0.8000)."),
        (0.75, "max", "Distilled does not beat alone: 0.7500 accuracy against 0.8000."),
        (0.75, "min", "Distilled beats alone by 0.0500 accuracy (0.7500 against 0.8000)."),
    ],
)
def test_one_line_says_what_distillation_brought(console: Console, student: float, mode: str, sentence: str) -> None:
    final_table(console, results(student, mode=mode))
    assert sentence in printed(console)


def test_without_a_baseline_nothing_is_claimed(console: Console) -> None:
    final_table(console, results(alone=None))
    assert "alone" not in printed(console)


def test_a_metric_that_is_missing_leaves_its_cell_empty(console: Console) -> None:
    found = results()
    del found["alone"]["metrics"]["accuracy"]
    final_table(console, found)
    assert "beat" not in printed(console)


def test_the_main_metric_is_the_configured_one_or_else_the_first_reported() -> None:
    assert main_metric(results()) == Metric("accuracy", "max")
    assert main_metric({"config": {"data": {"metric": "val/f1", "mode": "max"}}}) == Metric("f1", "max")
    assert main_metric({"student": {"metrics": {"loss": 2.0}}, "config": {}}) == Metric("loss", "min")
    assert main_metric({}) is None


def test_a_share_of_nothing_is_not_told() -> None:
    found = {"teacher": {"metrics": {"mcc": 0.0}}, "student": {"metrics": {"mcc": 0.1}}}
    assert share_kept(found, "student", Metric("mcc")) is None
    lower = {"teacher": {"metrics": {"loss": 1.0}}, "student": {"metrics": {"loss": 2.0}}}
    assert share_kept(lower, "student", Metric("loss", "min")) == 0.5


def test_scores_on_held_out_rows_are_a_column_where_there_are_some(console: Console) -> None:
    found = results()
    for number, role in enumerate(("teacher", "alone", "student")):
        found[role]["selection"] = {"accuracy": 0.7 + number / 100, "f1": 0.1}
    final_table(console, found)
    lines = printed(console).splitlines()
    (row,) = [line.split() for line in lines if "selection" in line]  # too wide for 80 columns: one column per model
    assert row == ["selection", "0.7000", "0.7100", "0.7200"]
    assert "0.1000" not in printed(console)  # of the main metric alone
    assert "Distilled beats alone by 0.0800 accuracy" in printed(console)  # of what is reported


def wide(names: list[str], mode: str = "max") -> dict[str, Any]:
    """Three models with a metric of each name, whose values are all different."""
    found = results(mode=mode)
    for number, role in enumerate(("teacher", "alone", "student")):
        found[role]["metrics"] = {name: 10.0 * number + i + 0.125 for i, name in enumerate(names)}
    found["config"]["task"]["metric"] = names[0]
    return found


@pytest.mark.parametrize("width", [80, 60, 40, 24])
@pytest.mark.parametrize(
    "names",
    [
        ["exact_match", "f1"],
        ["perplexity", "accuracy"],
        ["accuracy", "mismatched/accuracy"],
        ["mean", "a_task_of_a_long_name/matthews", "b/f1", "c/f1"],
    ],
)
def test_no_figure_is_ever_cut(names: list[str], width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    found = wide(names)
    final_table(console, found)
    text = printed(console)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    if width >= 60:
        for role in ("teacher", "alone", "student"):
            assert all(f"{value:.4f}" in text for value in found[role]["metrics"].values())
        assert all(part in text for part in ("109 M", "14.4 M", "5 m 45 s", "1 h 13 m"))


def test_a_share_of_the_teacher_is_told_only_where_more_is_better(console: Console) -> None:
    final_table(console, wide(["perplexity"], mode="min"))
    assert "of teacher" not in printed(console)
    assert "%" not in printed(console)
