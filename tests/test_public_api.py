from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import kd_lightning as kd

GOLDEN = Path(__file__).parent / "golden" / "public_names.txt"
PACKAGES = ("losses", "schedules", "students", "data", "callbacks", "metrics", "inspection", "compat",
            "sample_weights", "strategies")  # fmt: skip
COMPAT = ("mdistiller", "mmrazor", "repdistiller", "textbrewer", "tfkd", "torchdistill", "zoo")
PACKAGES = (*PACKAGES, *(f"compat.{name}" for name in COMPAT))
IMPORT = "import kd_lightning as kd\nassert kd.Objective and kd.losses.SoftTarget"


def public(name: str) -> list[str]:
    """Return the public names of a part: its `__all__`, or what it defines itself."""
    module = importlib.import_module(f"kd_lightning.{name}") if "." in name else getattr(kd, name)
    own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    return sorted(key for key in getattr(module, "__all__", own) if not key.startswith("_"))


def all_names() -> list[str]:
    return sorted(kd.__all__) + [f"{part}.{name}" for part in PACKAGES for name in public(part)]


def find(name: str) -> object:
    found: object = kd
    for part in name.split("."):
        found = getattr(found, part)
    return found


def test_the_public_names_are_those_we_have_promised():
    """To change the promise, change the file, by hand: each line is a name that others may use."""
    assert all_names() == GOLDEN.read_text().split()


@pytest.mark.parametrize("name", all_names())
def test_every_public_name_is_there_and_says_what_it_is_for(name):
    found = find(name)
    assert inspect.getdoc(found), name
    if inspect.isclass(found):
        assert found.__doc__, f"{name} has no docstring of its own"


@pytest.mark.parametrize("name", [name for name in kd.__all__ if inspect.isclass(find(name))])
def test_every_public_method_says_what_it_does(name):
    own = [value for key, value in vars(find(name)).items() if not key.startswith("_") and callable(value)]
    assert not [value.__qualname__ for value in own if not inspect.getdoc(value)]


def test_names_are_sorted_listed_and_nothing_else_is_offered():
    assert kd.__all__ == sorted(kd.__all__, key=lambda name: (name.islower(), name))
    assert dir(kd) == sorted(kd.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Objectiv'"):
        kd.Objectiv  # noqa: B018


@cache
def modules_after_imports() -> tuple[set[str], set[str]]:
    """Return the modules that a fresh process has after importing Lightning and torchmetrics, and then this package."""
    told = "print(*sys.modules)"
    command = f"import sys, lightning.pytorch, torchmetrics\n{told}\n{IMPORT}\n{told}"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=200, check=True)
    before, after = (set(line.split()) for line in done.stdout.splitlines())
    return before, after


def test_importing_the_package_brings_no_heavy_library():
    others, ours = modules_after_imports()
    heavy = {"datasets", "matplotlib", "onnx", "onnxruntime", "hydra", "omegaconf", "pyarrow"}
    heavy -= {name.split(".")[0] for name in others}  # torchmetrics brings matplotlib itself
    assert not heavy & {name.split(".")[0] for name in ours}


def test_importing_the_package_loads_no_file_of_a_certain_model_and_no_part_that_waits():
    loaded = modules_after_imports()[1]
    assert "kd_lightning.losses" in loaded
    assert (
        not {f"kd_lightning.{part}" for part in ("cli", "compat", "data", "models.inspection", "training.callbacks")}
        & loaded
    )
    models = [name for name in loaded if name.startswith("transformers.models.") and ".modeling_" in name]
    assert not [name for name in models if not name.startswith("transformers.models.auto.")]


def test_sub_packages_arrive_when_they_are_used():
    assert all(isinstance(getattr(kd, name), ModuleType) for name in ("callbacks", "data", "students", "losses"))
