from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pytest
from pyarrow import parquet

from .. import processes

Done: TypeAlias = subprocess.CompletedProcess[str]
HERE = Path(__file__).parent
WORDS = ["the", "a", "film", "plot", "actor", "scene", "was", "is", "very", "not", "slow", "bright", "dull", "of"]


def films(folder: Path, train: int = 300, validation: int = 60) -> Path:
    """Write the data set `films`: short texts, of label 1 where `good` is among the words."""
    draw = random.Random(0)
    for split, rows in (("train", train), ("validation", validation)):
        labels = [i % 2 for i in range(rows)]
        texts = [[*draw.choices(WORDS, k=draw.randint(2, 8)), "good" if label else "bad"] for label in labels]
        for text in texts:
            draw.shuffle(text)
        write(folder / "films" / f"{split}.parquet", sentence=[" ".join(text) for text in texts], label=labels)
    return folder


def write(file: Path, **columns: list[Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), file)


@pytest.fixture(scope="session")
def films_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return films(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session", name="write_rows")
def rows_writer() -> Callable[..., None]:
    return write


@pytest.fixture(scope="session")
def on_films(films_root: Path) -> list[str]:
    """What to type for two steps of everything on the small data set."""
    return ["data=sst2", "data.name=films", f"data.root={films_root}", "teacher=tiny_random", "debug=fast"]


@pytest.fixture(scope="session")
def environment(own_cache: Path) -> dict[str, str]:
    """The environment of a user with a narrow terminal and one thread."""
    unwanted = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "HYDRA_FULL_ERROR", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return kept | {"KD_CACHE": str(own_cache), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "110"}


@pytest.fixture(scope="session")
def command(environment: dict[str, str], repository: Path) -> Callable[..., Done]:
    """Run `python train.py` in a folder, as a user would.

    `before` has arguments of Python, as `-m torch.distributed.run`; `fresh` asks for a process that imports everything
    itself, which takes many seconds.
    """

    def call(folder: Path, *typed: str, before: Sequence[str] = (), fresh: bool = False) -> Done:
        argv = [str(repository / "train.py"), *typed]
        if not (fresh or before):
            return processes.run(argv, folder, environment, timeout=400)
        argv = [sys.executable, *before, *argv]
        return subprocess.run(argv, cwd=folder, env=environment, text=True, capture_output=True, timeout=400)

    return call


@pytest.fixture(scope="session")
def many(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Run many commands in one process, one after the other; returns what became of each, by name."""

    def call(commands: dict[str, list[str]]) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("many")
        (folder / "commands.json").write_text(json.dumps(commands))
        done = processes.run([str(HERE / "many_commands.py")], folder, environment, timeout=500)
        assert done.returncode == 0, done.stderr
        results = json.loads((folder / "results.json").read_text())
        return {name: result | {"folder": folder / name} for name, result in results.items()}

    return call
