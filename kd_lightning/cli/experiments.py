"""Names without a file: experiments, each task of `experiments.yaml` with each student, and short match names."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from kd_lightning.cli import generated

LISTED = "experiments.yaml"
RESOLVER = "kd_choices"
"""What the help page calls for its list of groups."""


@cache
def register(configs: Path, own: Path | None = None) -> None:
    """Put `experiment=TASK_STUDENT`, and `match=NAME` for `match=textbrewer/NAME`, where Hydra looks last; files win.

    Args:
        configs: the folder with `experiments.yaml`, `data`, `recipe` and `match`.
        own: a user's folder of configurations: its data sets go with every student of the first line, and its recipes
            with every task.

    """
    generated.add("experiment", experiments(configs, own), package="_global_")
    short = {name: {"defaults": [f"textbrewer/{name}"]} for name in _stems(configs / "match" / "textbrewer")}
    generated.add("match", short, package="objective.terms")
    OmegaConf.register_new_resolver(RESOLVER, lambda: choices(configs, own), replace=True)


def experiments(configs: Path, own: Path | None = None) -> dict[str, dict[str, Any]]:
    """Return what each of these experiments is: a recipe, a data set and a teacher; without those that are files.

    Example:
        >>> from kd_lightning.cli.configs import CONFIGS
        >>> experiments(CONFIGS)["rte_t3"]
        {'defaults': ['/recipe/t3', {'override /data': 'rte'}, {'override /teacher': 'bert_base'}]}

    """
    made = {
        f"{task}_{student}": _experiment(task, student, line)
        for line in lines(configs, own)
        for task in line["tasks"]
        for student in line["students"]
    }
    written = {name for folder in (configs, own) if folder is not None for name in _stems(folder / "experiment")}
    return {name: node for name, node in made.items() if name not in written}  # a user's folder comes last


def _experiment(task: str, student: str, line: dict[str, Any]) -> dict[str, Any]:
    made = [f"/recipe/{student}", *([f"/stage/{line['stage']}"] if "stage" in line else [])]
    return {"defaults": [*made, {"override /data": task}, {"override /teacher": line["teacher"]}]}


def lines(configs: Path, own: Path | None = None) -> list[dict[str, Any]]:
    """Return the lines of `experiments.yaml`, with a user's own data sets and recipes."""
    found: list[dict[str, Any]] = yaml.safe_load((configs / LISTED).read_text())
    tasks, students = (_stems(own / group) if own is not None else [] for group in ("data", "recipe"))
    found[0]["tasks"] = [*found[0]["tasks"], *tasks]
    return [line | {"students": [*line["students"], *students]} for line in found]


def typed_folder(typed: list[str]) -> Path | None:
    """Return the folder that `--config-dir` names.

    Example:
        >>> typed_folder(["--config-dir", "mine", "seed=1"]), typed_folder(["-cd=mine"]), typed_folder(["seed=1"])
        (PosixPath('mine'), PosixPath('mine'), None)

    """
    for place, text in enumerate(typed):
        option, equals, value = text.partition("=")
        if option in ("--config-dir", "-cd"):
            return Path(value if equals else "".join(typed[place + 1 : place + 2]))
    return None


def choices(configs: Path, own: Path | None = None) -> str:
    """Return every group with its choices, a line each; of experiments, what they are made of."""
    folders = [folder for folder in (configs, own) if folder is not None]
    groups = sorted({group.name for folder in folders for group in folder.iterdir() if group.is_dir()} - {"hydra"})
    listed = {group: sorted({name for folder in folders for name in _names(folder / group)}) for group in groups}
    page = [f"{group}: {', '.join(names)}" for group, names in listed.items() if names]
    made = [_made(line) for line in lines(configs, own)]
    place = next((i for i, line in enumerate(page) if line.startswith("experiment:")), -1)
    return "\n".join([*page[: place + 1], "  and TASK_STUDENT, as in sst2_t3, of", *made, *page[place + 1 :]])


def _made(line: dict[str, Any]) -> str:
    return f"    {', '.join(line['tasks'])} with {', '.join(line['students'])} (teacher {line['teacher']})"


def _stems(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml"))


def _names(folder: Path) -> list[str]:
    """Return what can be typed for a group: its files, and those of its subfolders as `textbrewer/L3_hidden_mse`."""
    return sorted(str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml"))
