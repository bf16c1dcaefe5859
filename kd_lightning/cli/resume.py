"""`resume=RUN_DIR`: which folder is meant, and whether a run can go on in it; a sentence for what is none."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from kd_lightning.cli.configs import TrainSchema
from kd_lightning.core.errors import ConfigError, DamagedError, closest
from kd_lightning.core.marked import read_marked
from kd_lightning.core.version import VERSION, is_readable

CONFIG = "config.yaml"
TYPED = Path(".hydra", "overrides.yaml")
"""Where Hydra keeps what was typed, before a run has begun."""

MAPPINGS = ("data", "task", "tasks", "teacher", "student", "objective", "plan", "optimizer", "trainer")
"""Keys of a run's configuration that are mappings."""

LATER = ("published",)
"""Keys that runs of earlier versions do not have."""


def resumed_folder(typed: Sequence[str]) -> Path | None:
    """Return the folder that `resume=` names on a command line, absolute; None where no run is resumed.

    Raises:
        ConfigError: it is empty, or holds no run that can go on.

    """
    values = [text.partition("=")[2] for text in typed if text.startswith("resume=") and text != "resume=null"]
    if not values:
        return None
    name = values[-1]
    if len(name) > 1 and name[0] == name[-1] and name[0] in "'\"":  # quoted for Hydra
        name = name[1:-1]
    if not name:
        raise ConfigError("'resume' has no value: type resume=RUN_DIR, the folder of a run.")
    folder = Path(name).expanduser().absolute()
    check_run(folder)
    return folder


def check_run(folder: Path) -> None:
    """Raise an error for a folder that holds no run that can go on.

    Raises:
        ConfigError: saying what it is instead, and what to type.

    """
    if not folder.exists():
        near = closest(str(folder), map(str, _runs_beside(folder)))
        advice = f" Closest: {', '.join(near)}." if near else ""
        raise ConfigError(f"resume={folder} is no run's folder: there is no such folder.{advice}")
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"resume={folder} is no run's folder: {_what_it_is(folder)}")
    _check_config(folder)


def _runs_beside(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.parent.glob(f"*/{CONFIG}"))


def _what_it_is(folder: Path) -> str:
    """Say what a folder without a run's configuration is, and what to type instead."""
    if run := next((parent for parent in folder.parents if _is_run(parent)), None):
        return f"it is a part of one. Type resume={run}."
    if folder.is_file():
        return "it is a file."
    if (folder / TYPED).is_file():
        return f"the run there ended before anything was saved. Start it again: {_again(folder)}"
    if jobs := sorted((path.parent for path in folder.glob(f"*/{CONFIG}")), key=_by_number):
        names = ", ".join(job.name for job in jobs[:12]) + (", …" if len(jobs) > 12 else "")
        return f"it has the folders of several ({names}). Type resume={jobs[0]}, or another of them."
    if (folder / "config.json").is_file() or (folder / "model.yaml").is_file():
        return "it is a saved model. To start from it, type student.path=DIR or teacher.path=DIR."
    return f"it has no {CONFIG}."


def _by_number(folder: Path) -> tuple[int, str]:
    return int(folder.name) if folder.name.isdigit() else -1, folder.name


def _is_run(folder: Path) -> bool:
    try:
        return (folder / CONFIG).is_file() and "kd_version" in (_read(folder / CONFIG) or {})
    except ConfigError:
        return False


def _check_config(folder: Path) -> None:
    """Check that a run's configuration is whole, and of a version that is read here."""
    config, place = _read(folder / CONFIG), folder / CONFIG
    known = [field.name for field in dataclasses.fields(TrainSchema)]
    if config and "kd_version" not in config and not config.keys() & set(known):
        raise ConfigError(f"resume={folder} is no run's folder: its {CONFIG} is of something else.")
    if config and not is_readable(version := config.get("kd_version", "0.1.0")):
        raise ConfigError(
            f"resume={folder} was made by kd_lightning {version}, and this is {VERSION}: go on with the version that "
            f"made it (pip install kd-lightning=={version}), or start a new run."
        )
    missing = [name for name in known if name not in config and name not in LATER]
    wrong = [name for name in MAPPINGS if not isinstance(config.get(name), dict)]
    if missing or wrong:
        lacks = f"it has no '{missing[0]}'" if missing else f"'{wrong[0]}' is no mapping"
        raise ConfigError(f"{place} is damaged: {lacks}. {_anew(folder)}")
    try:
        read_marked(place)
    except DamagedError as error:
        raise ConfigError(f"{error} {_anew(folder)}") from None


def _read(place: Path) -> dict[str, Any]:
    """Return a run's configuration; an empty file has nothing in it."""
    try:
        config = yaml.safe_load(place.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no YAML"
        raise ConfigError(f"{place} cannot be read ({reason}). {_anew(place.parent)}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{place} is damaged: it holds no mapping. {_anew(place.parent)}")
    return config


def _anew(folder: Path) -> str:
    if (folder / TYPED).is_file():
        return f"Delete it, and start the run again in its folder, where finished stages count: {_again(folder)}"
    return "Start the run again, with what was typed for it."


def _again(folder: Path) -> str:
    """Return the command that a run was started with, into the same folder."""
    try:
        typed = yaml.safe_load((folder / TYPED).read_text(encoding="utf-8")) or []
    except (OSError, ValueError, yaml.YAMLError):
        typed = ["…"]
    return shlex.join([*program(), *map(str, typed), f"hydra.run.dir={folder}"])


def program() -> list[str]:
    """Return what was typed for this command itself: `python train.py` or `kd-train`."""
    return ["python", "train.py"] if Path(sys.argv[0]).name == "train.py" else ["kd-train"]


def as_value(folder: Path) -> str:
    """Return a folder as Hydra reads it on a command line, whatever its name has in it.

    Example:
        >>> as_value(Path("/runs/it's mine"))
        "'/runs/it\\\\'s mine'"

    """
    quoted = str(folder).replace("'", "\\'").replace("${", "\\${")
    return f"'{quoted}'"
