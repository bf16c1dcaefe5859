from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from kd_lightning.cli.configs import compose_config

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
FENCE = re.compile(r"(?P<before>[^\n]*)\n+```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)
TYPED = re.compile(r"'?[~+]?[a-z_]+(@[\w.]+)?(\.\w+)*(=\S+)?'?")


def blocks(language: str, page: Path = README) -> list[str]:
    found = FENCE.finditer("\n" + page.read_text(encoding="utf-8"))
    return [m["text"] for m in found if m["language"] == language and m["before"].strip() != "<!-- not run -->"]


def commands() -> list[list[str]]:
    """What follows `python train.py` or `kd-train` in every shell block, comments left out."""
    lines = [line for text in blocks("bash") for line in text.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    starts = (["python", "train.py"], ["kd-train"])
    return [w[len(s) :] for w in words for s in starts if w[: len(s)] == s]


def choices() -> list[str]:
    """What the table of things to type has between backticks, as far as it is nothing but key=value."""
    table = README.read_text(encoding="utf-8").partition("| to … | type |")[2].partition("\n\n")[0]
    rows = [row.rpartition(" | ")[2] for row in table.splitlines()]
    found = [code for row in rows for code in re.findall(r"`([^`]+)`", row)]
    return [code for code in found if "=" in code and all(TYPED.fullmatch(word) for word in code.split())]


def spread(words: list[str]) -> list[list[str]]:
    """Return the jobs of a sweep: every combination of `key=a,b`."""
    keys = [word.partition("=") for word in words]
    options = [[f"{key}={one}" for one in value.split(",")] if "[" not in value else [w] for w, (key, _, value) in
               zip(words, keys, strict=True)]  # fmt: skip
    return [list(job) for job in itertools.product(*options)]


@pytest.mark.parametrize("block", blocks("python"))
def test_python_blocks_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_python_blocks_of_a_page_run_one_after_the_other(page: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": page.stem}
    found = blocks("python", page)
    assert found
    for block in found:
        exec(compile(block, page.name, "exec"), namespace)


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_command_lines_compose(words: list[str]) -> None:
    jobs = spread([word for word in words if word != "-m"]) if "-m" in words else [words]
    for job in jobs:
        assert compose_config(job).task.metric


@pytest.mark.parametrize("typed", choices())
def test_what_the_table_says_to_type_composes(typed: str) -> None:
    assert compose_config(["experiment=sst2_t4tiny", *shlex.split(typed)]).task.metric


def test_the_readme_has_something_to_try() -> None:
    assert blocks("python")
    assert len(commands()) >= 3
    assert len(choices()) >= 5
