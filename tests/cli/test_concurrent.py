"""Several commands at once on one cold cache, one teacher, one folder; some are killed on the way."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .. import processes

pytestmark = pytest.mark.slow
WAIT = 400


@pytest.fixture(scope="module")
def typed(films_root: Path) -> list[str]:
    typed = ["data=sst2", "data.name=films", f"data.root={films_root}", "teacher=tiny_random", "data.batch_size=4"]
    typed += ["teacher.architecture.num_hidden_layers=2", "teacher.trainer.max_epochs=2", "trainer.max_epochs=2"]
    return [*typed, "student.num_hidden_layers=1", "baseline=false", "match=[hidden_mse]", "cache=true"]


@pytest.fixture
def start(repository: Path, environment: dict[str, str], tmp_path: Path) -> Callable[..., Any]:
    """Start a command that shares one cache with the others of a test; what it prints goes to `LABEL.txt`."""

    def call(label: str, *arguments: str, cache: str = "cache") -> Any:
        own = environment | {"KD_CACHE": str(tmp_path / cache)}
        output = tmp_path / f"{label}.txt"
        return processes.start([str(repository / "train.py"), *arguments], tmp_path, own, output, output)

    return call


def wait_for(condition: Callable[[], object], process: Any) -> None:
    deadline = time.monotonic() + WAIT
    while not condition() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.is_alive(), "the run ended before it could be killed"


def finish(process: Any, output: Path, code: int = 0) -> None:
    process.join(WAIT)
    assert process.exitcode == code, output.read_text()


def made(run: Path) -> dict[str, Any]:
    """Return what a run made: the student's files, and every figure that does not depend on the clock."""
    metrics = json.loads((run / "metrics.json").read_text())
    figures = {stage: metrics[stage] for stage in ("teacher", "student")}
    for result in figures.values():
        result.pop("latency_ms", None)
    files = {str(file.relative_to(run)): file.read_bytes() for file in sorted((run / "student").rglob("*.*"))}
    return {"figures": figures, "files": files}


def shared(cache: Path) -> dict[str, bytes]:
    """Return what is in a cache and is the same whoever made it: weights of teachers and their outputs."""
    files = [file for pattern in ("*.safetensors", "*.bin") for file in sorted(cache.rglob(pattern))]
    return {str(file.relative_to(cache)): file.read_bytes() for file in files}


def leftovers(cache: Path) -> list[Path]:
    return [file for file in cache.rglob("*") if file.suffix == ".tmp" or file.name.endswith(".training")]


@pytest.mark.parametrize("moment", ["teacher", "cache"])
def test_of_two_runs_on_a_cold_cache_one_is_killed_and_both_end_as_if_alone(
    moment: str, typed: list[str], start: Callable[..., Any], tmp_path: Path
) -> None:
    finish(start("alone", *typed, "hydra.run.dir=alone", cache="own"), tmp_path / "alone.txt")
    first = start("first", *typed, "hydra.run.dir=first")
    root = tmp_path / "cache"
    begun = {"teacher": "teachers/.*.training/checkpoints/*.ckpt", "cache": "caches/*/plan.json"}[moment]
    second = start("second", *typed, "hydra.run.dir=second")
    wait_for(lambda: (tmp_path / "second" / "config.yaml").is_file(), second)
    wait_for(lambda: list(root.glob(begun)), first)
    first.kill()
    finish(second, tmp_path / "second.txt")
    finish(start("resumed", "resume=first"), tmp_path / "resumed.txt")

    assert made(tmp_path / "first") == made(tmp_path / "second") == made(tmp_path / "alone")
    assert shared(root) == shared(tmp_path / "own")
    assert leftovers(root) == []


def test_two_commands_started_on_one_folder_are_one_run_and_one_error(
    typed: list[str], start: Callable[..., Any], tmp_path: Path
) -> None:
    finish(start("alone", *typed, "hydra.run.dir=alone", cache="own"), tmp_path / "alone.txt")
    both = {label: start(label, *typed, "hydra.run.dir=run") for label in ("a", "b")}
    for process in both.values():
        process.join(WAIT)
    codes = {label: process.exitcode for label, process in both.items()}
    assert sorted(codes.values()) == [0, 1], codes
    refused = next(label for label, code in codes.items() if code == 1)
    last = (tmp_path / f"{refused}.txt").read_text().splitlines()[-1]
    assert last == f"error: Another process works in {tmp_path / 'run'}. Wait, or give another hydra.run.dir."
    assert made(tmp_path / "run") == made(tmp_path / "alone")


def test_sweeps_at_once_share_teacher_and_cache_and_give_what_one_job_after_another_gives(
    typed: list[str], start: Callable[..., Any], tmp_path: Path
) -> None:
    swept = ["-m", *typed, "tau=1,4", "hydra.sweep.subdir=${hydra.job.num}"]
    finish(start("alone", *swept, "hydra.sweep.dir=alone", cache="own"), tmp_path / "alone.txt")
    sweeps = {label: start(label, *swept, f"hydra.sweep.dir={label}") for label in ("a", "b")}
    for label, process in sweeps.items():
        finish(process, tmp_path / f"{label}.txt")
    for label in sweeps:
        for job in ("0", "1"):
            assert made(tmp_path / label / job) == made(tmp_path / "alone" / job)
    assert shared(tmp_path / "cache") == shared(tmp_path / "own")
    assert os.listdir(tmp_path / "cache" / "teachers") != []
    assert leftovers(tmp_path / "cache") == []
