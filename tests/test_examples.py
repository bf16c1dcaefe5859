"""Every example and tutorial runs, as a user would start it, and every tutorial converts to a notebook."""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from . import processes

FOLDER = Path(__file__).resolve().parents[1] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
CONVERTER = FOLDER / "tutorials" / "to_notebook.py"
TUTORIALS = sorted(set((FOLDER / "tutorials").glob("*.py")) - {CONVERTER})

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
def test_an_example_runs_and_prints_its_results(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    result = runpy.run_path(str(example))["main"](**BRIEF.get(example.stem, {}))
    assert capsys.readouterr().out.strip()
    assert not list(tmp_path.iterdir()), "examples leave nothing on the disk"
    assert CHECKS.get(example.stem, lambda _: True)(result)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_shows_how_to_start_it(example):
    text = example.read_text(encoding="utf-8")
    assert f"python examples/{example.name}" in text
    assert text.rstrip().endswith('if __name__ == "__main__":\n    main()')
    assert len(text.splitlines()) <= 90


def test_every_check_has_its_example():
    assert set(CHECKS) <= {example.stem for example in EXAMPLES}


RUN = [pytest.param(path, marks=[pytest.mark.slow] * (path.stem == "sweeps"), id=path.stem) for path in TUTORIALS]


@pytest.mark.parametrize("tutorial", RUN)
def test_a_tutorial_runs(tutorial: Path, tmp_path: Path) -> None:
    own = os.environ | {"PYTHONPATH": str(FOLDER.parent), "TMPDIR": str(tmp_path), "MPLBACKEND": "Agg"}
    done = processes.run([str(tutorial)], tmp_path, own, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_converts_to_a_notebook(tutorial: Path, tmp_path: Path) -> None:
    copy = tmp_path / tutorial.name
    copy.write_text(tutorial.read_text(encoding="utf-8"), encoding="utf-8")
    runpy.run_path(str(CONVERTER))["main"]([str(copy)])
    made = json.loads(copy.with_suffix(".ipynb").read_text(encoding="utf-8"))
    assert (made["nbformat"], made["nbformat_minor"]) == (4, 5)
    cells = made["cells"]
    assert [cell["cell_type"] for cell in cells[:2]] == ["markdown", "code"]
    assert cells[0]["source"][0].startswith("# ")
    assert len({cell["id"] for cell in cells}) == len(cells)
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(set(cell) >= {"execution_count", "outputs"} for cell in cells if cell["cell_type"] == "code")
    for text in code:
        compile(text, tutorial.name, "exec")
    assert sum(text.count("\n") + 1 for text in code) >= 25
    assert not any(line.startswith("#") and "%%" in line for text in code for line in text.splitlines())
