from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from lightning.pytorch import Callback, Trainer
from transformers import AutoTokenizer

from kd_lightning.core.checksums import write_checksums
from kd_lightning.core.errors import ConfigError, KDError
from kd_lightning.core.files import write_json
from kd_lightning.core.hashing import digest
from kd_lightning.core.version import VERSION
from kd_lightning.pipeline import fine_tune as stage
from kd_lightning.pipeline.checks import check_settings
from kd_lightning.pipeline.places import TEACHERS
from kd_lightning.pipeline.setup import teacher_setup
from kd_lightning.pipeline.teacher_model import load_teacher

from .. import processes
from .making import run_settings, task_settings

PREPARE = """
import json, sys
from pathlib import Path
from kd_lightning.cli.configs import compose_config
from kd_lightning.cli.settle import settings_of, settle
from kd_lightning.pipeline import fine_tune as stage

overrides, log, wait = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
fine_tune = stage._fine_tune

def slowly(setup, teacher, folder, training):
    with log.open("a") as lines:
        lines.write("begun\\n")
    (folder / "half").write_text("half a teacher")
    if wait == "forever":
        import time
        time.sleep(300)
    fine_tune(setup, teacher, folder, training)

stage._fine_tune = slowly
(settings,) = settings_of(settle(compose_config(overrides))).tasks.values()
found, built = stage.find_teacher(settings)
print(json.dumps([str(found[settings.teacher.name]), built]))
"""


@pytest.fixture
def small(on_films: list[str]) -> list[str]:
    shape = ["hidden_size=16", "num_hidden_layers=1", "intermediate_size=16"]
    return [*on_films, *(f"teacher.architecture.{text}" for text in shape), "callbacks.progress=null"]


class Preparing:
    """A process that makes a teacher, or finds it."""

    def __init__(self, name: str, overrides: list[str], folder: Path, environment: dict[str, str], wait: str = "no"):
        script, self.out, self.err = (folder / f"{name}.{kind}" for kind in ("py", "out", "err"))
        script.write_text(PREPARE)
        argv = [str(script), json.dumps(overrides), str(folder / "log"), wait]
        self.process = processes.start(argv, folder, environment, self.out, self.err)

    def told(self) -> Any:
        self.process.join(300)
        assert self.process.exitcode == 0, self.err.read_text()
        return json.loads(self.out.read_text().splitlines()[-1])


def prepare(typed: list[str]) -> tuple[Path, bool]:
    """Return the folder of the one teacher of what is typed, and whether it was trained now."""
    settings = task_settings(typed)
    found, built = stage.find_teacher(settings)
    return found[settings.teacher.name], built


def fingerprint(typed: list[str]) -> str:
    return digest(teacher_setup(task_settings(typed)).teacher_shape())


CHANGES = {
    "learning rate": ["teacher.optimizer.lr=1e-3"],
    "seed": ["seed=1"],
    "rows": ["data.limit=100"],
    "epochs": ["teacher.trainer.max_epochs=2"],
    "steps": ["trainer.limit_train_batches=3"],
    "clipping": ["trainer.gradient_clip_val=0.5"],
    "accumulation": ["trainer.accumulate_grad_batches=2"],
    "batch": ["data.batch_size=16"],
    "length": ["data.max_length=9"],
    "architecture": ["teacher.architecture.num_attention_heads=2"],
    "precision": ["trainer.precision=bf16-mixed"],
    "warm-up": ["scheduler.warmup=0.5"],
}
SAME = {
    "temperature": ["temperature=2"],
    "student": ["student=t3"],
    "match": ["match=[hidden_smmd]"],
    "student's learning rate": ["optimizer.lr=1"],
    "student's epochs": ["trainer.max_epochs=7"],
    "devices": ["trainer=ddp_cpu"],
    "logger": ["logger.tensorboard=null"],
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_shapes_a_teacher_is_in_its_fingerprint(name: str, small: list[str]) -> None:
    assert fingerprint([*small, *CHANGES[name]]) != fingerprint(small)


def test_what_shapes_only_the_student_is_not(small: list[str]) -> None:
    expected = fingerprint(small)
    assert {name: fingerprint([*small, *typed]) for name, typed in SAME.items()} == dict.fromkeys(SAME, expected)


def test_other_rows_are_another_teacher(small: list[str], films_root: Path, tmp_path: Path, write_rows: Any) -> None:
    shutil.copytree(films_root / "films", tmp_path / "films")
    before = fingerprint([*small, f"data.root={tmp_path}"])
    assert before == fingerprint(small)
    write_rows(tmp_path / "films" / "train.parquet", sentence=["another film"] * 300, label=[0, 1] * 150)
    assert fingerprint([*small, f"data.root={tmp_path}"]) != before


def test_a_teacher_is_made_once_and_found_again(small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    typed = [*small, "seed=11"]
    folder, built = prepare(typed)
    assert built
    assert {"config.json", "model.safetensors", "tokenizer.json", "recipe.json"} <= {p.name for p in folder.iterdir()}
    monkeypatch.setattr(stage, "_fine_tune", lambda *_: pytest.fail("the teacher was there"))
    assert prepare(typed) == (folder, False)
    settings = task_settings(typed)
    found: Any = load_teacher(folder, instantiate(settings.task))
    model, tokenizer = found
    assert model.config.num_labels == 2
    assert model.config.vocab_size == len(tokenizer) == len(AutoTokenizer.from_pretrained(folder))
    assert not list(folder.parent.glob(f".{folder.name}*.tmp"))


def test_the_same_recipe_makes_the_same_weights(
    small: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = []
    for name in ("one", "two"):
        monkeypatch.setenv("KD_CACHE", str(tmp_path / name))
        folder, _ = prepare([*small, "seed=12"])
        made.append((folder.name, (folder / "model.safetensors").read_bytes()))
    assert made[0] == made[1]


def test_two_processes_that_want_one_teacher_make_it_once(
    small: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    both = [Preparing(name, [*small, "seed=13"], tmp_path, environment) for name in ("one", "other")]
    found = [process.told() for process in both]
    assert found[0][0] == found[1][0]
    assert (tmp_path / "log").read_text() == "begun\n"
    assert sorted(built for _, built in found) == [False, True]


def test_a_killed_builder_leaves_nothing_to_be_mistaken_for_a_teacher(
    small: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    killed = Preparing("killed", [*small, "seed=14"], tmp_path, environment, wait="forever").process
    deadline = time.monotonic() + 200
    while not log.exists() and time.monotonic() < deadline and killed.is_alive():
        time.sleep(0.2)
    killed.kill()
    killed.join()
    folder, built = Preparing("again", [*small, "seed=14"], tmp_path, environment).told()
    assert log.read_text() == "begun\nbegun\n"
    assert built
    assert (Path(folder) / "model.safetensors").is_file()
    assert not list(Path(folder).parent.glob(f".{Path(folder).name}*.tmp"))


class Stop(Callback):
    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 1:
            raise RuntimeError("the power went off")


def test_a_teacher_whose_training_was_cut_off_goes_on_and_ends_the_same(
    small: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    typed = [*small, "seed=16", "callbacks.last.every_n_train_steps=1"]
    monkeypatch.setenv("KD_CACHE", str(tmp_path / "whole"))
    whole, _ = prepare(typed)
    monkeypatch.setenv("KD_CACHE", str(tmp_path / "cut"))
    build = stage.build_trainer
    with monkeypatch.context() as patch:
        patch.setattr(stage, "build_trainer", lambda *args: add(build(*args), Stop()))
        with pytest.raises(RuntimeError, match="power"):
            prepare(typed)
    (training,) = (tmp_path / "cut" / "teachers").glob(".*.training")
    (training / "csv" / f".metrics.csv.{2**30}.tmp").touch()  # of a killed write
    first = steps_seen(monkeypatch)
    cut, _ = prepare(typed)
    assert first == [1]
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert not list(cut.parent.glob(f".{cut.name}.t*"))
    assert not list(cut.rglob("*.tmp"))


def add(trainer: Trainer, callback: Callback) -> Trainer:
    trainer.callbacks.append(callback)
    return trainer


def steps_seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that will hold the step the next fit starts from."""
    seen: list[int] = []
    build = stage.build_trainer

    class Watch(Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if not seen:
                seen.append(trainer.global_step)

    monkeypatch.setattr(stage, "build_trainer", lambda *args: add(build(*args), Watch()))
    return seen


def test_an_own_teacher_must_be_one(tmp_path: Path, small: list[str]) -> None:
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"teacher\.path=.*teecher holds no fine-tuned model.*Closest: .*teacher\."):
        prepare([*small, f"teacher.path={tmp_path / 'teecher'}"])


def test_a_student_that_does_not_fit_fails_before_the_teacher_is_trained(
    small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "_fine_tune", lambda *_: pytest.fail("too late"))
    with pytest.raises(KDError, match=r"hidden\.7"):
        prepare([*small, "seed=15", "objective.terms.logits.match.student=hidden.7"])


@pytest.mark.parametrize("wrong", [["match=minilm"], ["optimizer.lr=-1"], ["match=L4t_hidden_mse"]])
def test_what_does_not_fit_is_known_before_a_teacher_is_trained(
    small: list[str], wrong: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KD_CACHE", str(tmp_path))  # nothing to be found there
    monkeypatch.setattr(stage, "_fine_tune", lambda *_: pytest.fail("a teacher was trained"))
    with pytest.raises(KDError):
        prepare([*small, "teacher.architecture.num_attention_heads=4", *wrong])


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["teacher.path={}"], "'teacher.path' is empty"),
        (["teacher.weights=confidence"], "'teacher.weights' is for several teachers"),
        (["teacher.path={a: DIR}", "teacher.weights={c: 1}"], "'teacher.weights.c' is of no teacher"),
        (["teacher.combine=foo"], "'teacher.combine' cannot be 'foo'"),
        (["data.multilabel=true"], "Type task=multilabel"),
    ],
)
def test_settings_that_no_teacher_takes_are_one_sentence(small: list[str], typed: list[str], words: str) -> None:
    def check() -> None:
        check_settings(run_settings([*small, *typed]))
        prepare([*small, *typed])

    with pytest.raises(ConfigError, match=words):
        check()


def test_a_teacher_that_was_damaged_since_is_looked_for_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    teacher, result = tmp_path / "teacher", tmp_path / "run" / "stages" / "teacher" / "result.json"
    teacher.mkdir()
    (teacher / "model.safetensors").write_bytes(b"weights")
    write_checksums(teacher)
    write_json(tmp_path / "run" / TEACHERS, {"": {"tiny": str(teacher)}})
    write_json(result, {"seconds": 0.0, "kd_version": VERSION})
    fine_tune = stage.FineTune("teacher")
    fine_tune.check_outputs(tmp_path / "run")
    assert fine_tune.is_done(tmp_path / "run")
    (teacher / "model.safetensors").write_bytes(b"weight")
    fine_tune.check_outputs(tmp_path / "run")
    assert f"The teacher in {teacher} is damaged" in caplog.text
    assert not list((tmp_path / "run").rglob("*.json"))
