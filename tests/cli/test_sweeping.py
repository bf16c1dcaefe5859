"""Sweeps over config groups may set keys that are not there by default."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from kd_lightning.cli.configs import for_jobs_only


def known() -> list[str]:
    return ["data", "data.seed", "data.limit", "student"]


@pytest.mark.parametrize(
    ("typed", "passed"),
    [
        (["-m", "data=rte,sick", "data.root=DIR"], ["-m", "data=rte,sick", "data.root=choice(DIR)"]),
        (["-m", "data=rte,sick", "data.text=[a,b]"], ["-m", "data=rte,sick", "data.text=choice([a,b])"]),
        (["-m", "data=rte,sick", "data.root='a b'"], ["-m", "data=rte,sick", "data.root=choice('a b')"]),
        (["-m", "data=rte,sick", "data.max_length=8,16"], ["-m", "data=rte,sick", "data.max_length=8,16"]),
        (["-m", "data=rte,sick", "data.limit=3"], ["-m", "data=rte,sick", "data.limit=3"]),
        (["-m", "data=rte", "data.root=DIR"], ["-m", "data=rte", "data.root=DIR"]),
        (["-m", "data=rte,sick", "+data.x=1"], ["-m", "data=rte,sick", "+data.x=1"]),
        (["-m", "data=rte,sick", "hydra.sweep.dir=D"], ["-m", "data=rte,sick", "hydra.sweep.dir=D"]),
        (["-m", "data=rte,sick", "data.root=(("], ["-m", "data=rte,sick", "data.root=(("]),
    ],
)
def test_only_keys_that_are_not_there_by_default_wait_for_the_jobs(typed: list[str], passed: list[str]) -> None:
    assert for_jobs_only(typed, known) == passed


def test_a_sweep_over_data_sets_says_once_where_they_are(films_root: Path, command: Any, tmp_path: Path) -> None:
    small = ["debug=fast", "teacher=tiny_random", "teacher.architecture.num_hidden_layers=2", "student=t4tiny"]
    place = [f"data.root={films_root}", "data.name=films", "data.max_length=32", "data.limit=32"]
    done = command(tmp_path, "-m", "hydra.sweep.dir=here", "data=sst2,cola", *small, *place)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "here" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2


def test_a_key_that_no_job_has_is_refused_before_the_first(command: Any, tmp_path: Path) -> None:
    done = command(tmp_path, "-m", "hydra.sweep.dir=here", "experiment=rte_t3,sick_t3", "data.rot=DIR")
    assert done.returncode == 1
    assert "error: There is no key 'data.rot'. Closest: data.root" in done.stderr
    assert not list((tmp_path / "here").glob("*/metrics.json"))
