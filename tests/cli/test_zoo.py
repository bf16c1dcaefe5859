"""Published recipes on CIFAR-10's own images, relabelled to a hundred classes where a recipe is for CIFAR-100."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from kd_lightning.cli.configs import CONFIGS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PUBLISHED = sorted(file.stem for name in ("mdi", "zoo") for file in (CONFIGS / "experiment").glob(f"*_{name}_*.yaml"))
METHODS = sorted(file.stem for file in (CONFIGS / "method").glob("*.yaml"))
ROWS = 260


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """Return a folder with a few images of CIFAR-10, and the same under a hundred labels as `cifar100`."""
    folder = tmp_path_factory.mktemp("images")
    for split in ("train", "test"):
        table = parquet.read_table(data_root / "cifar10" / f"{split}.parquet").slice(0, ROWS)
        for name in ("cifar10", "cifar100"):
            (folder / name).mkdir(exist_ok=True)
        parquet.write_table(table, folder / "cifar10" / f"{split}.parquet")
        image = table.column("image" if "image" in table.column_names else "img")
        labels = pa.array([number % 100 for number in range(ROWS)])
        parquet.write_table(pa.table({"image": image, "fine_label": labels}), folder / "cifar100" / f"{split}.parquet")
    return folder


def quick(root: Path) -> list[str]:
    return ["debug=fast", "data.batch_size=8", f"data.root={root}", "data.limit=240", "baseline=false"]


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_two_steps_of_every_published_recipe(experiment: str, images: Path, many: Callable[..., dict[str, Any]]):
    found = many({"run": [f"experiment={experiment}", *quick(images)]})
    assert found["run"]["code"] == 0, found["run"]


@pytest.mark.parametrize("cached", [[], ["cache=true", "teacher.cache.views=2"]], ids=["live", "cached"])
def test_two_steps_of_every_method(cached: list[str], images: Path, many: Callable[..., dict[str, Any]]):
    common = ["experiment=cifar10_small", *quick(images), *cached]
    found = many({name: [*common, f"method={name}"] for name in METHODS})
    assert {name: run["error"] for name, run in found.items() if run["code"]} == {}


def test_a_grid_that_is_started_again_keeps_what_is_finished(
    images: Path, many: Callable[..., dict[str, Any]], tmp_path: Path
):
    grid = ["-m", "experiment=cifar10_small", "method=alone,st,at", "seed=0,1", *quick(images)]
    place = f"hydra.sweep.dir={tmp_path / 'grid'}"
    once = many({"grid": [*grid, place]})["grid"]
    assert once["code"] == 0, once
    first = (tmp_path / "grid" / "sweep.csv").read_text()
    stamps = {file: file.stat().st_mtime_ns for file in (tmp_path / "grid").rglob("result.json")}
    (tmp_path / "grid" / "3" / "metrics.json").unlink()  # as of a job that was killed at its end
    again = many({"grid": [*grid, place]})["grid"]
    assert again["code"] == 0, again
    assert {file: file.stat().st_mtime_ns for file in stamps} == stamps
    rows = list(csv.DictReader((tmp_path / "grid" / "sweep.csv").open()))
    assert [(row["method"], row["seed"], row["status"]) for row in rows] == [
        (method, seed, "ok") for method in ("alone", "st", "at") for seed in "01"
    ]
    assert (tmp_path / "grid" / "sweep.csv").read_text().splitlines()[0] == first.splitlines()[0]
