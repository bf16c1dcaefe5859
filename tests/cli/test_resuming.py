"""`resume=DIR`: where a run goes on, and one sentence for every folder in which none can."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

TINY = ["baseline=false", "data.limit=64", "teacher.architecture.num_hidden_layers=1", "student.num_hidden_layers=1"]


@pytest.fixture(scope="module")
def run(many: Any, on_films: list[str]) -> Path:
    """A run that was killed after the student's last checkpoint, before its evaluation."""
    found = many({"run": [*on_films, *TINY, "trainer.max_epochs=2"]})["run"]
    assert found["code"] == 0, found["error"]
    for name in ("metrics.json", "stages/student/result.json"):
        (found["folder"] / name).unlink()
    return Path(found["folder"])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_a_line(path: Path) -> None:
    """Cut a configuration between two of its lines: what is left is valid."""
    text = path.read_text()
    assert "seed: 42\n" in text or "\nseed:" in text
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith("seed:")]
    path.write_text("".join([*lines, "seed: 7\n"]))


def foreign(path: Path) -> None:
    torch.save({"state_dict": {"x": torch.zeros(2)}, "global_step": 1, "epoch": 0, "callbacks": {}}, path)


def weights_alone(path: Path) -> None:
    there = torch.load(path, weights_only=True)
    torch.save({key: there[key] for key in ("state_dict", "global_step", "epoch")}, path)


def entry(**changes: Any) -> Callable[[Path], Any]:
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | changes))


REBUILT: dict[str, tuple[str, bytes]] = {
    "result_empty": ("stages/teacher/result.json", b""),
    "result_cut": ("stages/teacher/result.json", b'{"metrics": {"accuracy": 0.'),
    "result_bytes": ("stages/teacher/result.json", b"\xff\xfe\x00"),
    "result_list": ("stages/teacher/result.json", b"[1]"),
    "teachers": ("teachers.json", b"{"),
}

RESULT, LAST = "stages/teacher/result.json", "stages/student/checkpoints/last.ckpt"
BEST, BEFORE = "stages/student/checkpoints/best.ckpt", "stages/student/checkpoints/last.before.ckpt"
DAMAGES: dict[str, tuple[str, Callable[[Path], Any], list[str]]] = {
    "result_folder": (
        RESULT,
        lambda path: (path.unlink(), path.mkdir()),
        ["cannot be read (Is a directory)", "Delete it"],
    ),
    "result_null": (RESULT, entry(metrics=None), ["'metrics' cannot be None"]),
    "result_text": (RESULT, entry(metrics={"accuracy": "high"}), ["'metrics' cannot be {'accuracy': 'high'}"]),
    "result_seconds": (RESULT, entry(seconds="long"), ["'seconds' cannot be 'long'"]),
    "result_version": (RESULT, entry(kd_version="9.1.0"), ["written by kd_lightning 9.1.0", "Delete it"]),
    "teachers_other": ("teachers.json", lambda path: path.write_text('{"x": 1}'), ["teachers.json is of another run"]),
    "last_foreign": (LAST, foreign, ["last.ckpt is of another model", "trained anew"]),
    "last_weights": (LAST, weights_alone, ["last.ckpt holds weights alone", "trained anew"]),
    "best_foreign": (BEST, foreign, ["best.ckpt is of another model", "trained anew"]),
    "best_cut": (BEST, cut, ["best.ckpt is damaged", "trained anew"]),
    "best_empty": (BEST, lambda path: path.write_bytes(b""), ["best.ckpt is damaged"]),
    "best_gone": (BEST, Path.unlink, ["best.ckpt is gone", "trained anew"]),
    "config_empty": (
        "config.yaml",
        lambda path: path.write_text(""),
        ["it has no 'data'", "Delete it", "train.py data"],
    ),
    "config_line": ("config.yaml", without_a_line, ["config.yaml is damaged: it was cut or changed", "Delete it"]),
    "config_cut": ("config.yaml", cut, ["config.yaml", "Delete it, and start the run again in its folder"]),
    "config_list": ("config.yaml", lambda path: path.write_text("- 1"), ["holds no mapping"]),
    "config_bytes": ("config.yaml", lambda path: path.write_bytes(b"\xff\xfe\x00"), ["cannot be read (it is no YAML)"]),
    "config_other": ("config.yaml", lambda path: path.write_text("a: 1"), ["config.yaml is of something else"]),
    "config_gone": ("config.yaml", Path.unlink, ["before anything was saved", "train.py data=sst2", "hydra.run.dir="]),
}


@pytest.fixture(scope="module")
def damaged(run: Path, many: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("damaged")
    for name, (file, damage, _) in DAMAGES.items():
        shutil.copytree(run, home / name)
        damage(home / name / file)
    return many({name: [f"resume={home / name}"] for name in DAMAGES})


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_is_named_and_what_to_do(damaged: dict[str, Any], name: str) -> None:
    found = damaged[name]
    assert found["code"] == 1
    assert found["error"].startswith("error: ")
    assert "\n" not in found["error"], found["error"]
    for words in DAMAGES[name][2]:
        assert words in found["error"], found["error"]


def test_a_result_that_cannot_be_read_is_made_again(run: Path, many: Any, tmp_path: Path) -> None:
    for name, (file, content) in REBUILT.items():
        shutil.copytree(run, tmp_path / name)
        (tmp_path / name / file).write_bytes(content)
    results = many({name: [f"resume={tmp_path / name}"] for name in REBUILT})
    for name, (file, _) in REBUILT.items():
        assert results[name]["code"] == 0, results[name]["error"]
        assert f"The file {tmp_path / name / file} is damaged" in results[name]["told"]
        assert json.loads((tmp_path / name / file).read_text())


@pytest.fixture(scope="module")
def resumed(run: Path, many: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Copies of the run in folders of several names, resumed; one of them twice."""
    home = tmp_path_factory.mktemp("resumed")
    for name in ("it's ü one", "before", "no_checkpoint"):
        shutil.copytree(run, home / name)
    (home / "before" / LAST).replace(home / "before" / BEFORE)
    (home / "before" / LAST).write_bytes(b"cut")
    shutil.rmtree(home / "no_checkpoint" / "stages" / "student")
    for part in json.loads((run / "teachers.json").read_text())[""].values():
        shutil.rmtree(part)
    return many(
        {
            "odd_name": [f"resume={home}/it's ü one/"],
            "before": [f"resume='{home / 'before'}'"],
            "no_checkpoint": [f"resume={home / 'no_checkpoint'}"],
            "finished": [f"resume={home / 'before'}"],
        }
    )


def test_a_resumed_run_says_where_it_goes_on(resumed: dict[str, Any]) -> None:
    told = resumed["odd_name"]["told"]
    assert resumed["odd_name"]["code"] == 0, resumed["odd_name"]["error"]
    assert "goes on with the stage 'teacher'; finished: none." in told
    assert "Goes on from epoch 1, step 4 (" in told
    assert "last.ckpt)." in told


def test_a_teacher_that_is_gone_is_trained_again(resumed: dict[str, Any]) -> None:
    assert "is gone, so the stage 'teacher' runs again" in resumed["odd_name"]["told"]
    assert "is gone" not in resumed["before"]["told"]


def test_a_damaged_checkpoint_is_skipped_aloud(resumed: dict[str, Any]) -> None:
    assert resumed["before"]["code"] == 0, resumed["before"]["error"]
    assert "last.ckpt is damaged and skipped" in resumed["before"]["told"]
    assert "last.before.ckpt)." in resumed["before"]["told"]
    assert "goes on with the stage 'student'; finished: teacher." in resumed["before"]["told"]


def test_a_stage_without_a_checkpoint_begins(resumed: dict[str, Any]) -> None:
    assert resumed["no_checkpoint"]["code"] == 0, resumed["no_checkpoint"]["error"]
    assert "goes on with the stage 'student'" in resumed["no_checkpoint"]["told"]
    assert "Goes on from" not in resumed["no_checkpoint"]["told"]


def test_a_finished_run_says_so(resumed: dict[str, Any]) -> None:
    assert resumed["finished"]["code"] == 0
    assert "is finished: there is nothing left to do." in resumed["finished"]["told"]
    assert "Everything of this run is in" in resumed["finished"]["told"]


PLACES: dict[str, tuple[str, list[str]]] = {
    "empty": ("", ["'resume' has no value", "resume=RUN_DIR"]),
    "missing": ("{home}/rnu", ["there is no such folder. Closest: {home}/run"]),
    "file": ("{home}/file", ["{home}/file is no run's folder: it is a file"]),
    "part": ("{home}/run/stages/student", ["it is a part of one. Type resume={home}/run."]),
    "config_file": ("{home}/run/config.yaml", ["it is a part of one. Type resume={home}/run."]),
    "export": ("{home}/model", ["it is a saved model", "student.path=DIR"]),
    "sweep": ("{home}/sweep", ["folders of several (0, 2, 10)", "Type resume={home}/sweep/0, or another"]),
    "other": ("{home}", ["folders of several (run)"]),
    "home": ("~/kd-none", ["/kd-none is no run's folder"]),
    "nothing": ("/dev", ["it has no config.yaml"]),
}


def test_a_folder_without_a_run_is_named(run: Path, many: Any, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "file").touch()
    for place in ("model/config.json", "sweep/0/config.yaml", "sweep/2/config.yaml", "sweep/10/config.yaml"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).touch()
    results = many({name: [f"resume={place.format(home=tmp_path)}"] for name, (place, _) in PLACES.items()})
    for name, (_, wanted) in PLACES.items():
        found = results[name]
        assert found["code"] == 1
        assert "\n" not in found["error"], found["error"]
        for words in wanted:
            assert words.format(home=tmp_path) in found["error"], found["error"]
        assert "~" not in found["error"]
