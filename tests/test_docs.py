"""README.md and docs/: Python blocks run, what is typed composes, and links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

import kd_lightning as kd
from kd_lightning.cli.configs import CONFIGS, compose_config, register
from kd_lightning.cli.experiments import typed_folder

from . import processes
from .pages import PAGES, ROOT, blocks, run_page, write_files

TYPED = re.compile(r"'?[~+]?[a-z_]+(@[\w.]+)?(\.\w+)*(=\S+)?'?")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([\w-]+))?\)")
RUN = [page for page in PAGES if any(block.before == "<!-- run -->" for block in blocks(page))]
"""Pages with commands that are run: each in a process of its own."""

COMMANDS = [(page, words) for page in PAGES for block in blocks(page) for words in block.commands]


def typed_choices(page: Path) -> list[str]:
    """What tables of things to type have between backticks, as far as it is nothing but key=value."""
    tables = page.read_text(encoding="utf-8").split("| to … | type |")[1:]
    rows = [row.rpartition(" | ")[2] for table in tables for row in table.partition("\n\n")[0].splitlines()]
    found = [code for row in rows for code in re.findall(r"`([^`]+)`", row)]
    return [code for code in found if "=" in code and all(TYPED.fullmatch(word) for word in code.split())]


def jobs(words: list[str]) -> list[list[str]]:
    """Return jobs of a sweep in which every value of `key=a,b` is at least once; of a single run, the one job."""
    if "-m" not in words:
        return [words]
    keys = [word.partition("=") for word in words if word != "-m"]
    options = [
        [f"{key}={value}"] if "[" in value or "hydra" in key else [f"{key}={one}" for one in value.split(",")]
        for key, _, value in keys
    ]
    return [[values[job % len(values)] for values in options] for job in range(max(map(len, options)))]


def composed(words: list[str]) -> Any:
    """Return the configuration of a command line, `--config-dir` included."""
    own = typed_folder(words)
    if own is None:
        return compose_config(words)
    register(own.resolve())
    place = words.index("--config-dir")
    rest = [*words[:place], *words[place + 2 :], f"hydra.searchpath=[file://{own.resolve()}]"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", rest)


def anchors(page: Path) -> set[str]:
    """Return what a page's headings are called in links, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [page for page in PAGES if page not in RUN], ids=lambda page: page.stem)
def test_python_blocks_of_a_page_run_one_after_the_other(page: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    write_files(page, tmp_path)
    run_page(page)


RUN_FAST = [pytest.param(page, marks=[pytest.mark.slow] * (page.stem == "adding"), id=page.stem) for page in RUN]


@pytest.mark.parametrize("page", RUN_FAST)
def test_a_page_runs_with_its_commands(page: Path, tmp_path: Path) -> None:
    own = os.environ | {"PYTHONPATH": str(ROOT)}
    argv = [str(ROOT / "tests" / "pages.py"), str(page), str(tmp_path)]
    done = processes.run(argv, tmp_path, own, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[f"{page.stem}: {' '.join(w)}" for page, w in COMMANDS])
def test_command_lines_compose(page: Path, words: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    write_files(page, tmp_path)
    for job in jobs(words):
        assert composed(job).task.metric


CHOICES = [(page, typed) for page in PAGES for typed in typed_choices(page)]


@pytest.mark.parametrize(("page", "typed"), CHOICES, ids=[f"{page.stem}: {typed}" for page, typed in CHOICES])
def test_what_a_table_says_to_type_composes(page: Path, typed: str) -> None:
    experiment = "cifar10_small" if page.stem == "images" else "sst2_t4tiny"
    assert compose_config([f"experiment={experiment}", *shlex.split(typed)]).task.metric


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for name, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = (page.parent / name) if name else page
        assert target.exists(), name
        assert not anchor or anchor in anchors(target), f"{name}#{anchor}"


def test_the_readme_is_a_landing_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 90
    linked = {page.name for page in PAGES if f"docs/{page.name}" in text}
    assert {"README.md", "first-run.md", "own-data.md", "own-model.md", "adding.md"} <= linked


def test_the_index_has_every_page() -> None:
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    names = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:]]
    assert [name for name in names if f"({name}" not in text and name != "README.md"] == []


LOSSES = [page for page in PAGES if page.parent.name == "losses"]
SECTIONS = [(page, section) for page in LOSSES for section in page.read_text(encoding="utf-8").split("\n## ")[1:]]


def test_the_pages_name_every_loss() -> None:
    text = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
    assert [n for n in kd.losses.__all__ if not re.search(rf"`{n}\b", text) and n != "DistillationLoss"] == []


@pytest.mark.parametrize(
    ("page", "section"),
    [pair for pair in SECTIONS if "```yaml" in pair[1]],
    ids=lambda value: value.partition("\n")[0] if isinstance(value, str) else value.stem,
)
def test_a_loss_in_yaml_is_that_of_its_section_and_its_method_exists(page: Path, section: str) -> None:
    name = section.partition("\n")[0]
    typed = section.partition("```yaml\n")[2].partition("```")[0]
    assert type(instantiate(OmegaConf.create(typed).loss)) is getattr(kd.losses, name)
    methods = re.findall(r"`method=(\w+)`", section)
    assert all(f"losses.{name}" in (CONFIGS / "method" / f"{m}.yaml").read_text("utf-8") for m in methods)
    costs = re.findall(r"^A step of `method=(\w+)` takes", section, re.MULTILINE)
    assert costs or not methods
    assert set(costs) <= set(methods)


def test_the_table_of_methods_has_each_with_its_losses() -> None:
    text = (ROOT / "docs" / "losses" / "methods.md").read_text(encoding="utf-8")
    rows = {row.split("`")[1]: row for row in text.partition("\n\nA weight")[0].splitlines() if row.startswith("| `")}
    assert sorted(rows) == sorted(file.stem for file in (CONFIGS / "method").glob("*.yaml"))


def test_there_is_something_to_try() -> None:
    assert any(block.language == "python" for block in blocks(PAGES[0]))
    assert len(COMMANDS) >= 20
    assert len(CHOICES) >= 20
