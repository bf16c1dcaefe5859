from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RUN = "import kd_lightning; print(kd_lightning.__file__); from kd_lightning.cli.train import main; main()"


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the repository that has private configurations in it."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("kd_lightning", "configs"):
        shutil.copytree(repository / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "local"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(repository / name, folder / name)
    (folder / "configs" / "local").mkdir()
    (folder / "configs" / "local" / "default.yaml").write_text("paths: private\n")
    isolated = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    argv = [sys.executable, "-m", "pip", "wheel", "--no-deps", *isolated, "--wheel-dir", "dist", "."]
    done = subprocess.run(argv, cwd=folder, text=True, capture_output=True, timeout=600)
    if done.returncode and "hatchling" in done.stdout + done.stderr:
        pytest.skip("hatchling is not here, and cannot be fetched")
    assert done.returncode == 0, done.stderr
    return next((folder / "dist").glob("*.whl"))


def test_the_wheel_holds_every_configuration_and_no_private_one(wheel: Path, repository: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    public = [p for p in (repository / "configs").rglob("*.yaml") if "local" not in p.parts]
    assert {f"kd_lightning/{p.relative_to(repository)}" for p in public} <= names
    assert not [name for name in names if "local/" in name or name.startswith(("tests/", "configs/"))]
    scripts = next(name for name in names if name.endswith("entry_points.txt"))
    assert "kd-train = kd_lightning.cli.train:main" in zipfile.ZipFile(wheel).read(scripts).decode()


def test_the_command_runs_from_the_wheel_in_another_folder(
    wheel: Path, tmp_path: Path, environment: dict[str, str], films_root: Path
) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    typed = ["experiment=sst2_t4tiny", "teacher=tiny_random", "data.name=films", f"data.root={films_root}"]
    argv = [sys.executable, "-c", RUN, *typed, "debug=fast", "hydra.run.dir=here"]
    away = tmp_path / "away"
    away.mkdir()
    own = environment | {"PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(argv, cwd=away, env=own, text=True, capture_output=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "site"))
    assert json.loads((away / "here" / "metrics.json").read_text())["config"]["temperature"] == 8.0
