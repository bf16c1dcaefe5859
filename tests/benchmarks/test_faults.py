"""The harness of kills: it draws the same moments again, dies where it is told to, and sees what differs."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.faults import plans, probes, processes, summary
from benchmarks.faults.compare import differences, left
from benchmarks.faults.episodes import Reference
from benchmarks.faults.moments import LAUNCHER, Clock, Fault, Point, read_points
from benchmarks.faults.processes import Place

CSV = "epoch,step,train/loss,val/accuracy\n0,1,0.5,\n0,2,0.4,\n0,2,,0.75\n"


def run(folder: Path) -> Path:
    """Write what a run leaves."""
    checkpoints, csv = folder / "run/stages/student/checkpoints", folder / "run/stages/student/csv/version_0"
    for place in (checkpoints, csv, folder / "run/student", folder / "kd_cache", folder / "tmpdir"):
        place.mkdir(parents=True)
    (folder / "run/student/model.safetensors").write_bytes(b"weights")
    (folder / "run/metrics.json").write_text(json.dumps({"student": {"accuracy": 0.75, "latency_ms": random.random()}}))
    (csv / "metrics.csv").write_text(CSV)
    torch.save({"global_step": 2, "state_dict": {"weight": torch.ones(2)}}, checkpoints / "best.ckpt")
    return folder


def change_best(folder: Path) -> None:
    weights = {"weight": torch.tensor([1.0, 1.0 + 2**-23])}
    torch.save({"global_step": 2, "state_dict": weights}, folder / "run/stages/student/checkpoints/best.ckpt")


def change_rows(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "run/stages/student/csv/version_0/metrics.csv").write_text(CSV.replace(old, new))

    return change


def add_version(folder: Path) -> None:
    again = folder / "run/stages/student/csv/version_1/metrics.csv"
    again.parent.mkdir()
    again.write_text(CSV.splitlines()[0] + "\n0,2,0.4,\n")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda folder: None, ""),
        (change_best, "weights: run/stages/student/checkpoints/best.ckpt"),
        (lambda folder: (folder / "run/student/model.safetensors").write_bytes(b"others"), "bytes: run/student/model"),
        (lambda folder: (folder / "run/student/model.safetensors").unlink(), "lost file: run/student/model"),
        (lambda folder: (folder / "run/.a.txt.4711.tmp").touch(), "leftover: run/.a.txt.#.tmp"),
        (lambda folder: (folder / "tmpdir/x").touch(), "leftover: tmpdir/x"),
        (lambda folder: (folder / "run/metrics.json").write_text('{"student": {}}'), "metrics: student"),
        (lambda folder: (folder / "run/metrics.json").unlink(), "lost file: run/metrics.json"),
        (change_rows("0,2,0.4,\n", ""), "curve has a gap: run/stages/student, step 2 train/loss, 1 values"),
        (change_rows("0,2,0.4", "0,2,0.41"), "curve has another value: run/stages/student, step 2 train/loss"),
        (change_rows("0,2,0.4,\n", "0,2,0.4,\n0,2,0.4,\n"), "curve has rows twice: run/stages/student, step 2"),
        (add_version, "curve has rows twice: run/stages/student, step 2"),
    ],
)
def test_a_difference_is_seen_and_named(tmp_path: Path, change: Callable[[Path], Any], kind: str) -> None:
    wanted, folder = left(run(tmp_path / "one")), run(tmp_path / "other")
    change(folder)
    found = differences(wanted, left(folder))
    assert any(line.startswith(kind) for line in found) if kind else not found, found


def reference() -> Reference:
    names = ["begins", "open a, before", "open a, after", "on_train_batch_start, before"]
    points = [Point(phase, what, float(i)) for phase in ("start", "distil") for i, what in enumerate(names)]
    return Reference({}, {LAUNCHER: [points]})


def test_moments_are_a_function_of_the_seed() -> None:
    drawn = [
        [plans.draw_plan(random.Random(f"{seed} {number}"), reference(), number) for number in range(20)]
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    faults = [fault for plan in drawn[0] for fault in plan]
    assert {fault.phase for fault in faults} == {"start", "distil"}
    assert {fault.point for fault in faults if fault.delay is None} == {0, 1, 2, 3}
    assert [Fault.read(str(fault)) for fault in faults] == faults


def test_plans_of_files_have_every_operation_once() -> None:
    faults = [fault for plan in plans.file_plans(reference()) for fault in plan]
    assert sorted(map(str, faults)) == ["distil@1", "distil@2", "start@1", "start@2"]


@pytest.mark.parametrize(
    ("what", "point", "code", "there"),
    [
        ("open", 2, -signal.SIGKILL, ["a"]),
        ("open", 1, -signal.SIGKILL, []),
        ("open", 3, -signal.SIGXFSZ, ["a"]),
        ("open", 99, 0, ["b"]),
        ("torch.save", 2, -signal.SIGXFSZ, ["a"]),
    ],
)
def test_a_process_dies_at_its_point(tmp_path: Path, what: str, point: int, code: int, there: list[str]) -> None:
    watch, work = tmp_path / "watch", tmp_path / "work"
    watch.mkdir()
    work.mkdir()
    process = os.fork()
    if process == 0:
        probes.install(Clock(watch, Fault("start", point)))
        if what == "open":
            (work / "a").write_text("x" * 100)
        else:
            torch.save(torch.zeros(1000), work / "a")
        os.replace(work / "a", work / "b")
        os._exit(0)
    assert processes.wait(process, Place(tmp_path, tmp_path), None, timeout=60) == code
    assert [path.name for path in work.iterdir()] == there
    assert read_points(watch)[0][0].what == "begins"
    if code == -signal.SIGXFSZ:
        assert 0 < (work / "a").stat().st_size < 4000 if what == "torch.save" else 20


def test_a_process_is_killed_a_while_after_its_point(tmp_path: Path) -> None:
    place = Place(tmp_path, tmp_path)
    place.watch.mkdir()
    fault = Fault("distil", 0, delay=0.01)
    process = os.fork()
    if process == 0:
        clock = Clock(place.watch, fault)
        clock.enter("distil")
        signal.pause()
    assert processes.wait(process, place, fault, timeout=60) == -signal.SIGKILL
    assert [point.phase for point in read_points(place.watch)[0]] == ["start", "distil"]
    assert not processes.survivors(place)


def test_the_table_counts_kills_and_says_how_to_see_a_deviation(tmp_path: Path) -> None:
    rows = [
        {"scenario": "plain", "phases": ["start", "distil"]},
        {"scenario": "plain", "plan": ["distil@3"], "real": False, "deviations": ["weights: best.ckpt"],
         "kills": [{"phase": "distil", "what": "begins"}]},
    ]  # fmt: skip
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    text = summary.text(summary.read(file))
    assert "1 kills in 1 runs" in text
    assert "| distil | 1 | 1 |" in text
    assert "| cache | none | 0 |" in text
    assert "python -m benchmarks.faults --scenario plain --plan distil@3" in text
