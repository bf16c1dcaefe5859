"""The random configurations: what is drawn from, and how an end is judged."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.fuzz import draws, worker
from benchmarks.fuzz.__main__ import by_group
from benchmarks.fuzz.draws import Draw
from kd_lightning.cli.configs import CONFIGS


def test_every_group_and_option_is_drawn_but_for_those_that_are_named() -> None:
    folders = {folder.name for folder in CONFIGS.iterdir() if folder.is_dir()} - {"local"}
    assert set(draws.groups()) == folders - draws.LEFT_OUT.keys()
    assert draws.LEFT_OUT.keys() <= folders
    assert len(draws.groups()) >= 12
    assert {"quickstart", "rte_t3"} <= set(draws.options("experiment"))
    assert set(draws.options("optimizer")) == {file.stem for file in (CONFIGS / "optimizer").iterdir()}


def test_what_is_drawn_wins_over_what_makes_a_run_small() -> None:
    base = ["debug=fast", "teacher=tiny_random", "teacher.architecture.hidden_size=24", "data.limit=24"]
    line = Draw(3, base, {"teacher": "none", "data.limit": "0", "temperature": "nan"})
    assert line.typed == ["debug=fast", "teacher=none", "data.limit=0", "temperature=nan"]
    assert line.groups == ["data", "root values", "teacher"]


def test_the_table_counts_each_group_and_all() -> None:
    rows = [{"groups": ["data", "match"], "outcome": "accepted"}, {"groups": ["data"], "outcome": "failed"}]
    data, match, every = by_group(rows)
    assert (data["group"], data["draws"], data["accepted"], data["failed"]) == ("data", 2, 1, 1)
    assert (match["draws"], match["refused"], match["accepted"]) == (1, 0, 1)
    assert (every["group"], every["draws"]) == ("all", 2)


@pytest.mark.parametrize(
    ("raised", "typed", "outcome", "words"),
    [
        (None, "temprature=1", "refused", "There is no key 'temprature'"),
        (ZeroDivisionError("a bug"), "temperature=2", "failed", "ZeroDivisionError: a bug"),
        (SystemExit(3), "temperature=2", "failed", "SystemExit: 3"),
    ],
)
def test_an_error_is_refused_in_a_sentence_or_has_failed(
    raised: Any, typed: str, outcome: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(*_: Any) -> None:
        raise raised

    monkeypatch.setattr(importlib.import_module("kd_lightning.pipeline.run"), "run", fails)
    monkeypatch.chdir(tmp_path)
    steps: Any = SimpleNamespace(made=0, finite=True)
    found = worker.outcome({"number": 0, "typed": [typed], "drawn": {}}, steps)
    assert found["outcome"] == outcome
    assert words in found["said"]


@pytest.mark.parametrize(
    ("made", "finite", "saved", "outcome"),
    [
        (2, True, "temperature: 2.0\ntrainer: {max_epochs: 3}", "accepted"),
        (1, True, "trainer: {max_epochs: 3}", "fewer steps"),
        (2, False, "trainer: {max_epochs: 3}", "failed"),
        (2, True, "trainer: {max_epochs: 4}", "failed"),
    ],
)
def test_an_end_without_an_error_is_judged_by_steps_numbers_and_what_was_saved(
    made: int, finite: bool, saved: str, outcome: str, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(saved)
    steps: Any = SimpleNamespace(made=made, finite=finite)
    found = worker._finished({"drawn": {"trainer.max_epochs": "3", "data": "sst2"}}, steps, tmp_path)
    assert found["outcome"] == outcome
