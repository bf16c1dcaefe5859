"""The order of the packages: imports go to a lower level, or stay within a package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "kd_lightning"

LEVELS = (
    {"core"},
    {"functional"},
    {"features", "losses", "metrics"},
    {"objective", "teachers"},
    {"training", "models"},
    {"compat", "data", "tasks"},
    {"pipeline"},
    {"cli"},
)
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}

FORBIDDEN = {"torchvision", "textbrewer"}

WITHIN = {2, 3, 4, 5}
"""Levels whose packages may use each other, as long as there is no circle."""

BASE_ONLY = {"metrics": {"core", "functional"}}
BASE_ONLY["data"] = {"core", "functional", "metrics", "models"}  # models: loading a tokenizer by name
BASE_ONLY["models"] = {"core", "functional", "features", "objective"}  # layer maps say which layers to copy


def files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def part_of(name: str) -> str:
    """Return the part of the package a dotted name belongs to: `losses` of `kd_lightning.losses.base`."""
    return name.split(".")[1] if "." in name else ""


def imports(file: Path) -> Iterator[str]:
    """Yield the dotted names a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            module = node.module or ""
            yield from (f"{module}.{alias.name}" if module == "kd_lightning" else module for alias in node.names)


def edges() -> set[tuple[str, str]]:
    """Return which part imports which."""
    found = set()
    for file in files():
        part = file.relative_to(ROOT).parts[0].removesuffix(".py")
        if part != "__init__":
            ours = (part_of(name) for name in imports(file) if name.split(".")[0] == "kd_lightning")
            found |= {(part, other) for other in ours if other != part}
    return found


def test_every_part_has_a_level():
    parts = {path.name.removesuffix(".py") for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert parts - {"__init__", "__pycache__", "configs", "py.typed"} <= set(LEVEL)


def test_imports_go_to_a_lower_level():
    wrong = [
        f"{part} → {other or 'kd_lightning'}"
        for part, other in sorted(edges())
        if not (LEVEL.get(other, 99) < LEVEL[part] or (LEVEL.get(other) == LEVEL[part] and LEVEL[part] in WITHIN))
    ]
    assert not wrong


def test_no_two_parts_import_each_other():
    found = edges()
    assert not [pair for pair in found if pair[::-1] in found]


@pytest.mark.parametrize("part", BASE_ONLY)
def test_data_and_students_know_the_base_only(part):
    assert {other for own, other in edges() if own == part} <= BASE_ONLY[part]


def test_no_file_imports_what_is_not_there_on_every_machine():
    found = {(str(file.relative_to(ROOT)), name) for file in files() for name in imports(file)}
    assert not [pair for pair in found if pair[1].split(".")[0] in FORBIDDEN]


def test_the_rule_itself_sees_imports_inside_functions(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from kd_lightning import losses\n    import torchvision.ops\n")
    assert list(imports(file)) == ["kd_lightning.losses", "torchvision.ops"]
