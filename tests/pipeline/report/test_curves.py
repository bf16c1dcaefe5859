"""Curves are read from what Lightning's CSVLogger writes, and become a picture whatever was logged."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from kd_lightning.pipeline.report.curves import draw_curves, read_curves

PNG = b"\x89PNG\r\n\x1a\n"


def log(stage: Path, rows: list[dict[str, object]], version: int = 0) -> Path:
    folder = stage / "csv" / f"version_{version}"
    folder.mkdir(parents=True)
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, sorted({key for row in rows for key in row}))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "metrics.csv"


def test_curves_are_read_by_name_without_empty_cells(tmp_path: Path) -> None:
    log(tmp_path, [{"epoch": 0, "step": 9, "train/loss": 2.0}, {"epoch": 0, "step": 9, "val/accuracy": 0.5}])
    assert read_curves(tmp_path) == {"train/loss": ([9], [2.0]), "val/accuracy": ([9], [0.5])}


def test_the_later_version_wins_where_a_resumed_run_repeats_steps(tmp_path: Path) -> None:
    log(tmp_path, [{"step": s, "train/loss": 1.0} for s in (0, 10, 20)], version=2)
    log(tmp_path, [{"step": s, "train/loss": 2.0} for s in (20, 30)], version=10)
    assert read_curves(tmp_path)["train/loss"] == ([0, 10, 20, 30], [1.0, 1.0, 2.0, 2.0])


def test_a_last_line_cut_short_by_a_kill_adds_nothing(tmp_path: Path) -> None:
    file = log(tmp_path, [{"step": 0, "train/loss": 1.0}])
    with file.open("a") as lines:
        lines.write("1")
    assert read_curves(tmp_path)["train/loss"][0][0] == 0
    with file.open("a") as lines:
        lines.write("x,oops\n")
    assert read_curves(tmp_path)["train/loss"] == ([0], [1.0])


def test_a_stage_that_logged_nothing_has_no_curves(tmp_path: Path) -> None:
    assert read_curves(tmp_path) == {}


def test_curves_of_lightnings_own_logger_are_read(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    for value in (3.0, 4.0):
        logger = CSVLogger(tmp_path, name="csv")
        logger.log_metrics({"train/loss": value}, step=5)
        logger.log_metrics({"val/accuracy": value / 8}, step=5)
        logger.save()
    assert read_curves(tmp_path) == {"train/loss": ([5], [4.0]), "val/accuracy": ([5], [0.5])}


@pytest.mark.parametrize(("steps", "value"), [(0, 1.0), (1, 1.0), (1, float("nan")), (200, 1.0), (200, -1.0)])
def test_any_number_of_points_of_any_sign_becomes_a_picture(tmp_path: Path, steps: int, value: float) -> None:
    names = ["train/loss", "train/weighted/hard", *(f"train/weighted/hidden_{i}" for i in range(9)), "val/accuracy"]
    rows = [{"step": s, **dict.fromkeys(names, value)} for s in range(steps)] or [{"step": ""}]
    for stage in ("student", "other"):
        log(tmp_path / "stages" / stage, rows)
    draw_curves(tmp_path, tmp_path / "sub" / "curves.png")
    assert (tmp_path / "sub" / "curves.png").read_bytes().startswith(PNG)
    assert [file.name for file in (tmp_path / "sub").iterdir()] == ["curves.png"]


def test_a_run_without_stages_still_gets_a_picture(tmp_path: Path) -> None:
    draw_curves(tmp_path, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)


def test_drawing_leaves_pyplot_alone(tmp_path: Path) -> None:
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    draw_curves(tmp_path, tmp_path / "curves.png")
    assert pyplot.get_fignums() == before


def test_terms_of_one_scheme_are_added_up_where_there_are_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kd_lightning.pipeline.report import curves

    drawn: dict[str, tuple[list[int], list[float]]] = {}
    monkeypatch.setattr(curves, "_draw", lambda axes, curve, label, *_, **__: drawn.update({label: curve}))
    weighted = {f"train/weighted/hidden_mse_{i}": float(i) for i in range(7)}
    log(tmp_path / "stages" / "student", [{"step": 3, "train/weighted/hard": 0.5, **weighted}])
    draw_curves(tmp_path, tmp_path / "curves.png")
    assert drawn == {"hard": ([3], [0.5]), "hidden_mse (7 terms)": ([3], [21.0])}
