"""Experiments without a file each: which there are, who wins, and what the help page and errors say of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kd_lightning.cli.configs import CONFIGS, compose_config
from kd_lightning.cli.experiments import choices, experiments, typed_folder
from kd_lightning.cli.messages import one_sentence


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's folder: a data set, a recipe, and a file of the name that one of the experiments has."""
    files = {
        "data/mydata": "# @package _global_\ndefaults: [sst2@_here_]\ndata: {name: mydata, num_labels: 5}\n",
        "recipe/myway": "# @package _global_\ndefaults: [t3]\ntemperature: 3.0\n",
        "experiment/rte_t3": "# @package _global_\nseed: 7\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def test_a_users_data_sets_and_recipes_make_experiments_too(own: Path) -> None:
    made = experiments(CONFIGS, own)
    assert {"mydata_t3", "mydata_myway", "sst2_myway", "xnli_myway", "sst2_t3"} <= set(made)
    assert made["mydata_t3"]["defaults"][2] == {"override /teacher": "bert_base"}
    assert "mydata_t3" not in experiments(CONFIGS)


def test_the_command_composes_them_from_the_users_folder_and_its_files_win(
    own: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    made, file = (
        yaml.safe_load(command(tmp_path, f"--config-dir={own}", f"experiment={name}", "--cfg", "job").stdout)
        for name in ("mydata_myway", "rte_t3")
    )
    assert (made["data"]["name"], made["data"]["num_labels"], made["student"]["layers"]) == ("mydata", 5, "uniform")
    assert (made["temperature"], made["teacher"]["name"]) == (3.0, "bert_base")
    assert (file["seed"], file["data"]["_target_"]) == (7, "kd_lightning.data.SyntheticSentiment")


@pytest.mark.parametrize(
    ("typed", "folder"),
    [
        (["--config-dir", "a b", "seed=1"], Path("a b")),
        (["seed=1", "--config-dir=x/y"], Path("x/y")),
        (["-cd", "z"], Path("z")),
        (["seed=1"], None),
        (["--config-name", "other"], None),
    ],
)
def test_the_users_folder_is_found_in_what_was_typed(typed: list[str], folder: Path | None) -> None:
    assert typed_folder(typed) == folder


@pytest.mark.parametrize("typed", ["sst2_t44", "[sst2_t44]"])
def test_a_wrong_name_is_answered_with_the_nearest(typed: str) -> None:
    with pytest.raises(Exception, match="sst2_t44") as caught:
        compose_config([f"experiment={typed}"])
    found = one_sentence(caught.value)
    assert found is not None
    assert found.startswith("There is no 'sst2_t44' in config group 'experiment'. Closest: ")
    assert "sst2_t4tiny" in found


def own_experiments(folder: Path) -> set[str]:
    return {file.stem for file in (folder / "experiment").glob("*.yaml")}


def test_the_help_page_lists_tasks_and_students_once(own: Path) -> None:
    page = choices(CONFIGS, own).splitlines()
    assert "data: " in "\n".join(page)
    (place,) = (number for number, line in enumerate(page) if line.startswith("experiment: "))
    assert set(page[place].split(": ")[1].split(", ")) == {*own_experiments(CONFIGS), *own_experiments(own)}
    english = page[place + 2]
    assert english.strip().startswith("sst2, cola, ")
    assert english.endswith(
        "mydata with t6, t3, t3_best, t3small, t4tiny, t4tiny_best, t12nano, bigru, electra_small, myway "
        "(teacher bert_base)"
    )
    assert not any("sst2_t6" in line for line in page)
