"""What `import kd_lightning` brings along beyond Lightning itself."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CODE = """
import sys, json, lightning
before = set(sys.modules)
import kd_lightning
print(json.dumps(sorted(set(sys.modules) - before)))
"""

HEAVY = {
    "datasets",
    "hydra",
    "matplotlib",
    "omegaconf",
    "onnx",
    "onnxruntime",
    "optuna",
    "pandas",
    "pyarrow",
    "sklearn",
}


@pytest.fixture(scope="module")
def added() -> list[str]:
    """Return the modules that our import adds to Lightning's."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_the_package_itself_is_among_what_is_added(added: list[str]) -> None:
    assert "kd_lightning" in added


def test_no_heavy_library_is_loaded(added: list[str]) -> None:
    assert not HEAVY & {name.partition(".")[0] for name in added}


def test_no_file_of_a_certain_model_is_loaded(added: list[str]) -> None:
    models = [name for name in added if name.startswith("transformers.models.") and ".modeling_" in name]
    assert not [name for name in models if not name.startswith("transformers.models.auto.")]


@pytest.mark.parametrize("part", ["callbacks", "cli", "compat", "data", "inspection"])
def test_parts_that_bring_libraries_along_wait_until_they_are_used(part: str, added: list[str]) -> None:
    assert f"kd_lightning.{part}" not in added
