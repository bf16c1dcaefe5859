"""Every example runs, as a user would start it; its `main` returns what came of it."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.py"))

CHECKS: dict[str, Callable[[Any], bool]] = {
    "callback": lambda gaps: gaps["distilled"] < 0.1 * gaps["alone"],
    "custom": lambda logged: 0 < logged["train/weighted/top"] == pytest.approx(2 * logged["train/loss/top"], rel=0.05),
    "two_teachers": lambda found: set(found) == {"deep", "wide", "student"},
    "two_tasks": lambda found: set(found) == {"val/mean", "val/large/accuracy", "val/small/accuracy"},
    "two_tokenizers": lambda found: set(found) == {"teacher", "student"},
    "emd": lambda flow: flow.shape == (2, 6) and float(flow.sum()) == pytest.approx(1),
}
"""What must be true of the results, for examples that promise something."""

BRIEF = {name: {"sentences": 400, "epochs": 1} for name in ("two_teachers", "two_tasks", "two_tokenizers")}
"""Arguments for examples that take their time."""


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_says_what_came_of_it(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    result = runpy.run_path(str(example))["main"](**BRIEF.get(example.stem, {}))
    assert capsys.readouterr().out.strip()
    assert not list(tmp_path.iterdir()), "examples leave nothing on the disk"
    assert CHECKS.get(example.stem, lambda _: True)(result)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_to_start_it(example):
    text = example.read_text(encoding="utf-8")
    assert f"python examples/{example.name}" in text
    assert text.rstrip().endswith('if __name__ == "__main__":\n    main()')
    assert len(text.splitlines()) <= 90


def test_every_check_has_its_example():
    assert set(CHECKS) <= {example.stem for example in EXAMPLES}
