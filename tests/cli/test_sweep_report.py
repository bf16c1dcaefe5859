"""A sweep's folder becomes a table and a picture in which no job is lost."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from kd_lightning.cli import sweep_report as sweep
from kd_lightning.cli.sweep_jobs import best, read_jobs, varying
from kd_lightning.cli.sweep_report import SweepReport, full_rows, last_failures, report
from kd_lightning.core.marked import write_marked

PNG = b"\x89PNG\r\n\x1a\n"


def job(folder: Path, overrides: list[str], result: dict[str, Any] | str | None) -> None:
    (folder / ".hydra").mkdir(parents=True)
    write_marked(folder / ".hydra" / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(overrides)))
    if isinstance(result, str):
        (folder / "error.txt").write_text(result)
    elif result is not None:
        (folder / "metrics.json").write_text(json.dumps(result))


def reached(student: float, metric: str = "accuracy", mode: str = "max", alone: float | None = 0.5) -> dict[str, Any]:
    scores = {"teacher": 0.9, "student": student} | ({"alone": alone} if alone is not None else {})
    models = {role: {"metrics": {metric: score}, "parameters": 10} for role, score in scores.items()}
    return {**models, "seconds": {"teacher": 1.0, "student": 2.5}, "config": {"task": {"metric": metric, "mode": mode}}}


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    outcomes = [reached(0.7), reached(0.8), "Term 'x' does not fit.\nmore", None]
    points = [(t, m) for m in ("hidden_mse", "'[nst,fsp]'") for t in (2, 4)]
    for number, ((t, m), outcome) in enumerate(zip(points, outcomes, strict=True)):
        job(tmp_path / str(number), ["experiment=sst2", f"temperature={t}", f"+match={m}"], outcome)
    return tmp_path


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def told(folder: Path) -> str:
    console = Console(file=io.StringIO(), width=100)
    report(read_jobs(folder), folder, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_every_job_is_a_row_with_what_varied_its_status_and_its_error(grid: Path) -> None:
    told(grid)
    rows = table(grid)
    assert [row["status"] for row in rows] == ["ok", "ok", "failed", "missing"]
    assert [row["temperature"] for row in rows] == ["2", "4", "2", "4"]
    assert [row["match"] for row in rows] == ["hidden_mse", "hidden_mse", "[nst,fsp]", "[nst,fsp]"]
    assert rows[2]["error"] == "Term 'x' does not fit."
    assert "experiment" not in rows[0]


def test_metrics_of_all_models_and_seconds_are_in_the_table(grid: Path) -> None:
    told(grid)
    row = table(grid)[1]
    assert (row["student/accuracy"], row["alone/accuracy"], row["teacher/accuracy"]) == ("0.8", "0.5", "0.9")
    assert (row["seconds/student"], row["seconds"], row["best"]) == ("2.5", "3.5", "yes")


def test_the_markdown_table_has_a_line_per_job_and_the_best_in_bold(grid: Path) -> None:
    told(grid)
    lines = (grid / "sweep.md").read_text().splitlines()
    assert len(lines) == 2 + 4
    assert len({line.count("|") for line in lines}) == 1
    assert [line.startswith("| **1** |") for line in lines[2:]] == [False, True, False, False]


def test_the_terminal_names_the_best_and_prints_the_errors_whole(grid: Path) -> None:
    text = told(grid)
    assert "[nst,fsp]" in text
    assert "ok ★" in text
    assert "job 2 failed: Term 'x' does not fit." in text
    assert "4 jobs, 2 without a result." in text


def test_best_is_smallest_where_the_metric_falls(tmp_path: Path) -> None:
    for number, value in enumerate((3.0, 2.0, float("nan"))):
        job(tmp_path / str(number), [f"seed={number}"], reached(value, "perplexity", "min"))
    winner = best(read_jobs(tmp_path))
    assert winner is not None
    assert winner.name == "1"


def test_best_is_that_on_held_out_rows_where_all_jobs_have_some(tmp_path: Path) -> None:
    for number, (reported, chosen) in enumerate(((0.9, 0.6), (0.7, 0.8), (0.8, 0.7))):
        found = reached(reported)
        found["student"]["selection"] = {"accuracy": chosen}
        job(tmp_path / str(number), [f"match={number}"], found)
    text = told(tmp_path)
    assert "selection" in text
    assert [(row["best"], row["student/accuracy"], row["student/selection/accuracy"]) for row in table(tmp_path)] == [
        ("", "0.9", "0.6"),
        ("yes", "0.7", "0.8"),
        ("", "0.8", "0.7"),
    ]
    job(tmp_path / "3", ["match=3"], reached(0.85))  # without: all are compared by what they report
    winner = best(read_jobs(tmp_path))
    assert winner is not None
    assert winner.name == "0"


def test_jobs_with_different_metrics_are_not_ranked(tmp_path: Path) -> None:
    job(tmp_path / "0", ["data=sst2"], reached(0.9))
    job(tmp_path / "1", ["data=cola"], reached(0.5, "mcc"))
    assert best(read_jobs(tmp_path)) is None
    rows = full_rows(read_jobs(tmp_path))
    assert [(row["student/accuracy"], row["student/mcc"]) for row in rows] == [("0.9", ""), ("", "0.5")]


def test_jobs_are_in_the_order_of_their_numbers_and_found_in_deeper_folders(tmp_path: Path) -> None:
    for number in (10, 9, 2):
        job(tmp_path / "part" / str(number), [f"seed={number}"], reached(0.5))
    (tmp_path / "part" / "2" / "stages" / "student").mkdir(parents=True)
    assert [j.name for j in read_jobs(tmp_path)] == ["part/2", "part/9", "part/10"]


def test_a_traceback_is_told_by_its_last_line(tmp_path: Path) -> None:
    job(tmp_path / "0", [], "Traceback (most recent call last):\n  File x\nRuntimeError: out of memory\n")
    assert read_jobs(tmp_path)[0].error == "RuntimeError: out of memory"


def test_a_truncated_result_is_a_failed_job(tmp_path: Path) -> None:
    job(tmp_path / "0", [], None)
    (tmp_path / "0" / "metrics.json").write_text('{"student": ')
    assert read_jobs(tmp_path)[0].status == "failed"


def test_an_error_of_an_earlier_try_does_not_hide_a_later_result(tmp_path: Path) -> None:
    job(tmp_path / "0", [], reached(0.5))
    (tmp_path / "0" / "error.txt").write_text("old")
    os.utime(tmp_path / "0" / "error.txt", (1, 1))
    assert read_jobs(tmp_path)[0].status == "ok"


def test_an_override_that_only_some_jobs_have_is_a_column(tmp_path: Path) -> None:
    job(tmp_path / "0", ["seed=1"], reached(0.5))
    job(tmp_path / "1", ["seed=1", "cache=true"], reached(0.5))
    assert varying(read_jobs(tmp_path)) == ["cache"]


SWEEPS = {
    "numbers": ["temperature=1", "temperature=2", "temperature=8"],
    "words": ["match=a", "match=b", "match=c"],
    "two": ["temperature=1 match=a", "temperature=2 match=a", "temperature=1 match=b"],
    "seeds": ["lr=1e-3 seed=0", "lr=1e-3 seed=1", "lr=3e-3 seed=0"],
    "three": ["lr=1 match=a student=x", "lr=2 match=a student=x", "lr=1 match=b student=y"],
    "nothing": ["seed=1", "seed=1", "seed=1"],
}


@pytest.mark.parametrize("overrides", SWEEPS.values(), ids=SWEEPS)
@pytest.mark.parametrize("failed", [1, 3])
def test_any_sweep_becomes_a_picture(tmp_path: Path, overrides: list[str], failed: int) -> None:
    for number, typed in enumerate(overrides):
        job(tmp_path / str(number), typed.split(), "it broke" if number < failed else reached(0.5 + number / 10))
    told(tmp_path)
    assert (tmp_path / "sweep.png").read_bytes().startswith(PNG)
    assert not list(tmp_path.glob(".*.tmp"))


def ended(folder: Path) -> None:
    callback = SweepReport()
    callback.on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}}))


def test_failed_and_missing_jobs_are_counted_for_the_exit_code(grid: Path, tmp_path: Path) -> None:
    ended(grid)
    assert last_failures() == 2
    SweepReport().on_multirun_start(OmegaConf.create({}))
    assert last_failures() == 0


def test_an_exception_in_the_report_is_logged_and_the_failures_still_count(
    grid: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sweep, "report", lambda *_: 1 / 0)
    ended(grid)
    assert "could not be written" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert last_failures() == 2


def task(cfg: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    if cfg.temperature == 4:
        (folder / "error.txt").write_text("no luck")
    else:
        (folder / "metrics.json").write_text(json.dumps(reached(cfg.temperature / 10)))


def test_hydra_calls_the_report_at_the_end_of_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.yaml").write_text(
        "defaults: [_self_, {override hydra/job_logging: disabled}, {override hydra/hydra_logging: disabled}]\n"
        "temperature: 1\nhydra:\n  sweep: {dir: out, subdir: '${hydra.job.num}'}\n"
        "  callbacks:\n    report: {_target_: kd_lightning.cli.sweep_report.SweepReport}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train", "-m", "temperature=2,4,8"])
    hydra.main(version_base="1.3", config_path=str(tmp_path), config_name="train")(task)()
    assert last_failures() == 1
    assert [row["status"] for row in table(tmp_path / "out")] == ["ok", "failed", "ok"]
    assert "no luck" in capsys.readouterr().out
