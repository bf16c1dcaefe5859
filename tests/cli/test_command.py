from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import yaml
from safetensors.torch import load_file

import kd_lightning as kd
from kd_lightning.cli.configs import CONFIGS

SCORE = """
import json, sys
import pyarrow.parquet as pq
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder, file = sys.argv[1:]
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
assert not any(name.startswith("kd_lightning") for name in sys.modules)
rows = pq.read_table(file).to_pylist()
with torch.no_grad():
    guesses = [int(model(**tokenizer(row["sentence"], return_tensors="pt")).logits.argmax()) for row in rows]
right = sum(guess == row["label"] for guess, row in zip(guesses, rows))
print(json.dumps({"accuracy": right / len(rows), "guesses": guesses, "parameters": model.num_parameters()}))
"""


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def logged(stage: Path) -> dict[str, list[str]]:
    with (stage / "csv" / "version_0" / "metrics.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    return {name: [row[name] for row in rows if row[name]] for name in rows[0]}


# -- one run -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, command: Any, films_root: Path) -> tuple[Path, Any]:
    """A run that learns something: six epochs, with a baseline."""
    folder = tmp_path_factory.mktemp("run")
    typed = ["data=sst2", "data.name=films", f"data.root={films_root}", "teacher=tiny_random", "baseline=true"]
    short = ["trainer.max_epochs=6", "teacher.trainer.max_epochs=3", "trainer.log_every_n_steps=1"]
    shape = ["teacher.optimizer.lr=1e-3", "optimizer.lr=5e-3", "student.num_hidden_layers=2"]
    done = command(folder, *typed, *short, *shape, "match=[hidden_mse,hidden_smmd]", "hydra.run.dir=here", fresh=True)
    assert done.returncode == 0, done.stderr
    return folder / "here", done


@pytest.fixture(scope="module")
def metrics(finished: tuple[Path, Any]) -> dict[str, Any]:
    return json.loads((finished[0] / "metrics.json").read_text())


def test_a_run_leaves_everything_it_promises(finished: tuple[Path, Any]) -> None:
    run = finished[0]
    names = ["config.yaml", "metrics.json", "curves.png", "student/model.safetensors", "student/tokenizer.json"]
    for name in [*names, "stages/student/checkpoints/best.ckpt", "stages/alone/checkpoints/best.ckpt"]:
        assert (run / name).stat().st_size > 100, name
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((run / "stages" / "student" / "tensorboard").glob("events.*"))
    assert not [path for path in run.rglob("*") if path.name.endswith(".tmp")]


def test_metrics_json_has_exactly_its_keys(metrics: dict[str, Any]) -> None:
    assert set(metrics) == {"teacher", "alone", "student", "seconds", "config"}
    for role in ("teacher", "alone", "student"):
        assert set(metrics[role]) == {"metrics", "parameters", "latency_ms"}
        assert set(metrics[role]["metrics"]) == {"accuracy"}
        assert metrics[role]["latency_ms"] > 0
    assert set(metrics["seconds"]) == {"teacher", "alone", "student"}
    assert metrics["student"]["parameters"] == metrics["alone"]["parameters"] < metrics["teacher"]["parameters"]


def test_the_saved_configuration_is_resolved_and_the_one_in_the_metrics(
    finished: tuple[Path, Any], metrics: dict[str, Any], films_root: Path
) -> None:
    text = (finished[0] / "config.yaml").read_text()
    assert "${" not in text
    assert yaml.safe_load(text) == {"kd_version": kd.__version__, **metrics["config"]}
    assert metrics["config"]["data"]["root"] == str(films_root)


def test_curves_have_their_names(finished: tuple[Path, Any]) -> None:
    curves = logged(finished[0] / "stages" / "student")
    terms = {"hard", "logits", *(f"hidden_{kind}_{layer}" for kind in ("mse", "smmd") for layer in range(3))}
    assert {name for name in curves if name.startswith("train/loss/")} == {f"train/loss/{term}" for term in terms}
    assert {n for n in curves if n.startswith("train/weighted/")} == {f"train/weighted/{term}" for term in terms}
    assert len(curves["train/loss"]) == 60  # 300 rows in batches of 32, six times
    assert len(curves["val/accuracy"]) == 6
    weighted = [float(curves[f"train/weighted/{term}"][0]) for term in terms]
    assert sum(weighted) == pytest.approx(float(curves["train/loss"][0]), rel=1e-5)


def test_tensorboard_has_the_same_curves(finished: tuple[Path, Any]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stage = finished[0] / "stages" / "student"
    events = EventAccumulator(str(stage / "tensorboard"))
    events.Reload()
    assert {"train/loss", "train/loss/logits", "train/weighted/hidden_mse_1", "val/accuracy"} <= set(
        events.Tags()["scalars"]
    )
    values = [event.value for event in events.Scalars("train/loss")]
    assert values == pytest.approx([float(value) for value in logged(stage)["train/loss"]], rel=1e-5)


def test_the_best_epoch_is_the_one_reported(finished: tuple[Path, Any], metrics: dict[str, Any]) -> None:
    for stage in ("alone", "student"):
        scores = [float(value) for value in logged(finished[0] / "stages" / stage)["val/accuracy"]]
        assert metrics[stage]["metrics"]["accuracy"] == pytest.approx(max(scores))


def test_the_exported_student_scores_the_same_in_a_fresh_process_without_us(
    finished: tuple[Path, Any], metrics: dict[str, Any], films_root: Path, environment: dict[str, str]
) -> None:
    argv = [sys.executable, "-c", SCORE, str(finished[0] / "student"), str(films_root / "films" / "validation.parquet")]
    done = subprocess.run(argv, env=environment, text=True, capture_output=True, timeout=200, cwd=finished[0])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["guesses"]) == {0, 1}
    assert found["accuracy"] == pytest.approx(metrics["student"]["metrics"]["accuracy"], abs=1e-6)
    assert found["parameters"] == metrics["student"]["parameters"]


def test_the_student_takes_nothing_of_ours_along(finished: tuple[Path, Any]) -> None:
    weights = load_file(finished[0] / "student" / "model.safetensors")
    assert all(name.startswith(("bert.", "classifier.")) for name in weights)
    assert "kd_" not in (finished[0] / "student" / "config.json").read_text()


def test_no_teacher_is_in_a_checkpoint(finished: tuple[Path, Any]) -> None:
    import torch

    for name in ("best", "last"):
        file = finished[0] / "stages" / "student" / "checkpoints" / f"{name}.ckpt"
        if file.is_file():
            state = torch.load(file, weights_only=True)["state_dict"]
            assert not [key for key in state if "teacher" in key]
            assert [key for key in state if "projection" in key]


def test_the_terminal_tells_what_comes_and_what_came(finished: tuple[Path, Any]) -> None:
    told = finished[1].stdout
    for words in ("frozen", "trainable", "hidden_mse_1", "student alone", "student distilled", "train 300"):
        assert words in told
    assert "Traceback" not in finished[1].stderr
    assert "Warning" not in finished[1].stderr


def test_resuming_a_finished_run_changes_nothing(finished: tuple[Path, Any], many: Any) -> None:
    run = finished[0]
    before = tree(run)
    results = many(
        {
            "again": [f"resume={run}"],
            "agreeing": [f"resume={run}", "trainer.max_epochs=6", "optimizer.lr=0.005"],
            "other": [f"resume={run}", "temperature=2"],
            "other_group": [f"resume={run}", "trainer=ddp_cpu"],
            "nowhere": ["resume=nowhere"],
            "many": ["-m", f"resume={run}", "temperature=2,4"],
        }
    )
    assert [results[name]["code"] for name in ("again", "agreeing")] == [0, 0]
    assert "student distilled" in results["again"]["told"]
    assert results["other"]["error"] == (
        f"error: {run} was made with temperature=4.0, not 2.0. A run is resumed as it was configured: type resume=DIR "
        "alone, or start a new run."
    )
    assert "was made with" in results["other_group"]["error"]
    assert "nowhere is no run's folder: there is no such folder" in results["nowhere"]["error"]
    assert "leave -m away" in results["many"]["error"]
    after = tree(run)
    logs = {"train.log", "curves.png"}  # the log goes on; the picture is drawn again
    assert {k: v for k, v in after.items() if k not in logs} == {k: v for k, v in before.items() if k not in logs}


# -- what can be typed ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def typed(finished: tuple[Path, Any], many: Any, on_films: list[str], tmp_path_factory: Any) -> dict[str, Any]:
    """Runs of two steps each, by what was typed for them."""
    mine = tmp_path_factory.mktemp("mine")
    (mine / "experiment").mkdir()
    (mine / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /data: sst2\n  - override /teacher: tiny_random\n"
        "  - override /match: [hidden_smmd]\ntemperature: 3.0\ndata: {name: films}\nbaseline: false\n"
    )
    teacher = teacher_of(finished[0])
    root = next(text for text in on_films if text.startswith("data.root="))
    alone = "baseline=false"
    return many(
        {
            "weights": [*on_films, alone, "objective.terms.logits.weight=0.5", "~objective.terms.hard", "match=[]"],
            "several": [*on_films, alone, "match=[hidden_sgram,attention_mse_mean]"],
            "textbrewer": [*on_films, alone, "match=L4t_hidden_mse", "student=t4tiny", "objective=textbrewer"],
            "bigru": [*on_films, alone, "student=bigru", "match=[]"],
            "path": [*on_films, f"teacher.path={teacher}"],
            "config_dir": ["--config-dir", str(mine), "experiment=mine", root, "debug=fast"],
            "tasks": [*on_films, "baseline=true", "+data@tasks.made_up=synthetic", "match=hidden_mse", "tau=0"],
            "teachers": [
                *on_films,
                alone,
                f"teacher.path={{a: {teacher}, b: {teacher}}}",
                "teacher.weights={a: 3, b: 1}",
                "match=hidden_mse",
                "objective.terms.hidden_mse.teacher_feature=b/hidden",
            ],
            "tokenizers": [f"teacher.path={teacher}", "data=synthetic", "debug=fast", alone, "match=hidden_mse"],
            "no_teacher": [*on_films, "teacher=none", "student.num_hidden_layers=1"],
            "loggers_off": [*on_films, alone, "logger.tensorboard=null", "callbacks.progress=null"],
        }
    )


def teacher_of(run: Path) -> str:
    """Return the folder of a run's one teacher."""
    ((teachers),) = json.loads((run / "teachers.json").read_text()).values()
    (folder,) = teachers.values()
    return str(folder)


def result(typed: dict[str, Any], name: str) -> dict[str, Any]:
    assert typed[name]["code"] == 0, typed[name]["error"]
    return json.loads((typed[name]["folder"] / "metrics.json").read_text())


def test_there_is_no_student_alone_unless_asked_for(typed: dict[str, Any]) -> None:
    assert set(result(typed, "weights")) == {"teacher", "student", "seconds", "config"}
    assert not (typed["weights"]["folder"] / "stages" / "alone").exists()


def test_terms_can_be_weighed_and_removed(typed: dict[str, Any]) -> None:
    result(typed, "weights")
    curves = logged(typed["weights"]["folder"] / "stages" / "student")
    assert {name for name in curves if name.startswith("train/loss/")} == {"train/loss/logits"}
    whole, weighted = (float(curves[f"train/{name}/logits"][0]) for name in ("loss", "weighted"))
    assert weighted == pytest.approx(0.5 * whole)


def test_matches_add_up(typed: dict[str, Any]) -> None:
    result(typed, "several")
    curves = logged(typed["several"]["folder"] / "stages" / "student")
    assert {"train/loss/hidden_sgram_1", "train/loss/attention_mse_mean_1", "train/loss/hard"} <= set(curves)


def test_textbrewers_names_work(typed: dict[str, Any]) -> None:
    config = result(typed, "textbrewer")["config"]
    assert config["objective"]["terms"]["hidden_mse"]["student_layers"] == 4
    curves = logged(typed["textbrewer"]["folder"] / "stages" / "student")
    assert len([name for name in curves if name.startswith("train/loss/hidden_mse_")]) == 5  # embeddings and 4 layers


def test_a_recurrent_student_is_distilled_and_loads(typed: dict[str, Any]) -> None:
    from transformers import AutoModelForSequenceClassification

    import kd_lightning  # noqa: F401  (it makes the architecture known)

    count = result(typed, "bigru")["student"]["parameters"]
    model = AutoModelForSequenceClassification.from_pretrained(typed["bigru"]["folder"] / "student")
    assert sum(p.numel() for p in model.parameters()) == count


def test_a_given_teacher_is_used_and_not_trained(
    typed: dict[str, Any], finished: tuple[Path, Any], metrics: dict[str, Any]
) -> None:
    found = result(typed, "path")
    assert teacher_of(typed["path"]["folder"]) == teacher_of(finished[0])
    assert found["seconds"]["teacher"] == 0.0
    assert found["teacher"]["metrics"] == metrics["teacher"]["metrics"]


def test_several_tasks_share_a_student_and_have_their_own_teachers_and_metrics(typed: dict[str, Any]) -> None:
    found, folder = result(typed, "tasks"), typed["tasks"]["folder"]
    for role in ("teacher", "alone", "student"):
        scores = found[role]["metrics"]
        assert set(scores) == {"mean", "films/accuracy", "made_up/accuracy"}
        assert scores["mean"] == pytest.approx((scores["films/accuracy"] + scores["made_up/accuracy"]) / 2, abs=1e-6)
    teachers = json.loads((folder / "teachers.json").read_text())
    assert len({path for own in teachers.values() for path in own.values()}) == 2
    bodies = [load_file(folder / "student" / task / "model.safetensors") for task in ("films", "made_up")]
    shared = [name for name in bodies[0] if name.startswith("bert.")]
    assert shared
    assert all(torch.equal(bodies[0][name], bodies[1][name]) for name in shared)
    assert found["student"]["parameters"] < 1.05 * sum(x.numel() for x in bodies[0].values())
    assert (folder / "curves.png").is_file()
    curves = logged(folder / "stages" / "student")
    assert any(re.fullmatch(r"train/(films|made_up)/loss/hidden_mse_1", name) for name in curves)


def test_several_teachers_teach_as_one_and_one_by_one(typed: dict[str, Any], finished: tuple[Path, Any]) -> None:
    found = result(typed, "teachers")
    one = json.loads((finished[0] / "metrics.json").read_text())["teacher"]
    assert found["teacher"]["metrics"] == one["metrics"]  # twice the same one
    assert found["teacher"]["parameters"] == 2 * one["parameters"]
    assert "train/loss/hidden_mse_1" in logged(typed["teachers"]["folder"] / "stages" / "student")


def test_a_teacher_with_another_tokenizer_teaches_hidden_states(typed: dict[str, Any]) -> None:
    found, folder = result(typed, "tokenizers"), typed["tokenizers"]["folder"]
    assert found["student"]["metrics"]["accuracy"] >= 0
    teacher = teacher_of(folder)
    sizes = [
        len(json.loads((Path(at) / "tokenizer.json").read_text())["model"]["vocab"])
        for at in (teacher, folder / "student")
    ]
    assert sizes[0] != sizes[1]
    assert "train/loss/hidden_mse_2" in logged(folder / "stages" / "student")


def test_without_a_teacher_the_student_learns_from_labels_alone(typed: dict[str, Any]) -> None:
    found = result(typed, "no_teacher")
    assert set(found) == {"student", "seconds", "config"}
    curves = logged(typed["no_teacher"]["folder"] / "stages" / "student")
    assert {name for name in curves if name.startswith("train/loss/")} == {"train/loss/hard"}


def test_a_users_own_experiment_runs_without_a_fork(typed: dict[str, Any]) -> None:
    found = result(typed, "config_dir")
    assert found["config"]["temperature"] == 3.0
    assert set(found["config"]["objective"]["terms"]) == {"hard", "logits", "hidden_smmd"}


def test_a_logger_or_callback_can_be_turned_off(typed: dict[str, Any]) -> None:
    result(typed, "loggers_off")
    stage = typed["loggers_off"]["folder"] / "stages" / "student"
    assert (stage / "csv").is_dir()
    assert not (stage / "tensorboard").exists()


# -- mistakes ------------------------------------------------------------------------------------------------------

MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    "address": (["objective.terms.logits.match.student=logitz"], ["logitz", "logits"]),
    "layer": (["objective.terms.logits.match.teacher=hidden.9"], ["hidden.9", "0 to 6"]),
    "key": (["temprature=2"], ["temprature", "temperature"]),
    "new_key": (["+temprature=2"], ["temprature", "temperature"]),
    "inner_key": (["optimizer.learning_rate=1"], ["optimizer.learning_rate"]),
    "new_inner_key": (["+optimizer.learning_rate=1"], ["optimizer.learning_rate"]),
    "choice": (["student=t4tyni"], ["t4tyni", "t4tiny"]),
    "experiment": (["experiment=sst2_t4tinny"], ["sst2_t4tinny", "sst2_t4tiny"]),
    "match": (["match=[hiden_mse]"], ["hiden_mse", "hidden_mse"]),
    "type": (["temperature=hot"], ["temperature", "number"]),
    "data_folder": (["data.root=/no/such/folder"], ["/no/such/folder", "data.root"]),
    "data_set": (["data.name=flims"], ["flims", "films"]),
    "column": (["data.text=text"], ["text", "sentence"]),
    "hub": (["data.root=null"], ["hub", "data.root"]),
    "hub_teacher": (["teacher=bert_base"], ["bert-base-cased", "teacher=minilm_l6"]),
    "teacher_path": (["teacher.path=/no/such/teacher"], ["teacher.path", "config.json"]),
    "batch_size": (["data.batch_size=many"], ["data.batch_size"]),
    "batch_size_0": (["data.batch_size=0"], ["batch_size=0"]),
    "batch_size_half": (["data.batch_size=1.5"], ["data.batch_size"]),
    "limit": (["data.limit=0"], ["limit"]),
    "steps": (["trainer.max_steps=lots"], ["trainer"]),
    "precision": (["trainer.precision=17"], ["17"]),
    "non_finite": (["optimizer.lr=1e30", "match=[]", "trainer.limit_train_batches=6"], ["non-finite", "term"]),
    "metric": (["task.metric=f1"], ["f1", "accuracy"]),
    "rate": (["optimizer.lr=-1"], ["Invalid learning rate: -1"]),
    "layers": (["match=L4t_hidden_mse"], ["4"]),
    "heads": (["match=minilm"], ["head"]),
    "temperature_0": (["temperature=0"], ["temperature"]),
    "weight": (["objective.terms.logits.weight=much"], ["weight"]),
    "no_terms": (["~objective.terms.hard", "~objective.terms.logits", "match=[]"], ["term"]),
    "student_size": (["student.hidden_size=31"], ["31"]),
    "new_field": (["student=t4tiny", "student.num_hidden_layers=1"], ["+student.num_hidden_layers=VALUE"]),
    "layers_number": (["student=t3", "student.layers=2"], ["layers", "uniform"]),
    "seed": (["seed=-1"], ["seed"]),
    "labels": (["data.num_labels=1"], ["num_labels"]),
    "group_null": (["logger=null"], ["~logger"]),
    "no_key": (["=3"], ["'=3' cannot be read as key=value"]),
    "callback": (["+callbacks.mine.patience=3"], ["callbacks.mine", "_target_"]),
    "target": (["optimizer._target_=torch.optim.AdamWW"], ["AdamWW", "AdamW"]),
    "match_nothing": (["match=[hidden_mse", "seed=1"], ["match"]),
    "devices": (["trainer.devices=0"], ["devices"]),
    "teacher_key": (["+teacher.foo=1"], ["'teacher.foo'"]),
    "cache_key": (["+teacher.cache.topk=64"], ["'teacher.cache.topk'", "top_k"]),
    "endless": (["trainer.max_epochs=null"], ["'trainer.max_epochs'", "nothing ends the training"]),
    "endless_teacher": (["teacher.trainer.max_epochs=-1"], ["'teacher.trainer.max_epochs'", "nothing ends"]),
    "no_layers": (["student=t3", "+student.num_hidden_layers=0"], ["num_hidden_layers", "at least 1"]),
    "no_width": (["student=t3", "+student.hidden_size=0"], ["hidden_size", "at least 1"]),
    "extra_twice": (["data.extra=[films]"], ["data.extra", "trained on already"]),
    "half_epochs": (["trainer.max_epochs=1.5"], ["max_epochs"]),
    "epochs_word": (["trainer.max_epochs=abc"], ["max_epochs"]),
    "epochs_nan": (["trainer.max_epochs=nan"], ["max_epochs"]),
    "warmup_word": (["scheduler.warmup=abc"], ["warmup"]),
    "seed_large": (["seed=4294967296"], ["seed"]),
    "devices_below": (["trainer.devices=-2"], ["devices"]),
    "devices_word": (["trainer.devices=abc"], ["devices"]),
    "accumulate_0": (["trainer.accumulate_grad_batches=0"], ["accumulate_grad_batches"]),
    "task_number": (["+tasks.cola=3"], ["tasks.cola"]),
    "nothing_swept": (["trainer.max_steps=0"], ["has no optimizer step", "max_steps"]),
    "rate_word": (["optimizer.lr=abc"], ["'optimizer.lr' cannot be 'abc': it must be a number"]),
    "teacher_trainer_key": (["+teacher.trainer.max_epoch=9"], ["'teacher.trainer.max_epoch'", "max_epochs"]),
    "interpolation": (["student.hidden_size=${data.widht}"], ["${data.widht}", "points to nothing"]),
    "extra_file": (["data.extra=[/proc/version]"], ["/proc/version", "no data set and no file of rows"]),
    "unlabelled_empty": (["data.unlabelled=''"], ["empty"]),
    "optimizer_null": (["optimizer=null"], ["'optimizer' cannot be null: type optimizer=NAME", "adamw"]),
    "student_name": (["student=pretrained", "student.name=nope"], ["'nope'", "student.name=DIR"]),
    "tokenizer": (["data.tokenizer=nope"], ["'nope'", "data.tokenizer=train"]),
    "teacher_of_nothing": (["teacher.architecture=null"], ["'tiny_random' is made from nothing", "teacher=none"]),
    "model_type": (["teacher.architecture.model_type=bertt"], ["'bertt'. Closest: bert"]),
    "model_field": (["+teacher.architecture.num_layer=2"], ["'teacher.architecture.num_layer'", "num_hidden_layers"]),
    "activation": (["student=t3", "+student.hidden_act=rleu"], ["hidden_act", "rleu", "relu"]),
    "dropout_word": (["student=t3", "+student.hidden_dropout_prob=abc"], ["hidden_dropout_prob", "'abc'"]),
    "never_saved": (["callbacks.last.every_n_train_steps=0"], ["every_n_train_steps", "at least 1"]),
    "no_side": (["objective.terms.hard.match.teacher=null"], ["'hard'", "HardLabel", "teacher"]),
    "teacher_width_0": (["teacher.architecture.hidden_size=0"], ["teacher.architecture", "hidden_size"]),
    "teacher_width_below": (["teacher.architecture.hidden_size=-1"], ["teacher.architecture", "hidden_size"]),
    "layer_start": (["student=t3", "student.layers=unifrom"], ["unifrom", "uniform"]),
}


@pytest.fixture(scope="module")
def mistakes(many: Any, on_films: list[str]) -> dict[str, Any]:
    return many({name: [*on_films, "baseline=false", *words] for name, (words, _) in MISTAKES.items()})


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_by_one_sentence(mistakes: dict[str, Any], name: str) -> None:
    found = mistakes[name]
    assert found["code"] == 1
    assert "Traceback" not in found["error"], found["error"]
    assert found["error"].startswith("error: ")
    assert "\n" not in found["error"]
    for words in MISTAKES[name][1]:
        assert words in found["error"]


def test_a_folder_that_cannot_be_made_is_named(many: Any, on_films: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    typed = [*on_films, f"hydra.run.dir={tmp_path / 'file'}"]
    results = many({"file": typed, "below": [*on_films, f"{typed[-1]}/run"], "empty": [*on_films, "hydra.run.dir="],
                    "rows": [*on_films, "logger.csv.save_dir=/proc/rows"]})  # fmt: skip
    assert results["rows"]["error"].startswith("error: Cannot write /proc/rows (No such file or directory)")
    for name in ("file", "below"):
        assert results[name]["code"] == 1
        assert results[name]["error"].startswith(f"error: Cannot write {tmp_path / 'file'}")
        assert results[name]["error"].endswith("Give another hydra.run.dir.")
    assert "'hydra.run.dir' has no value" in results["empty"]["error"]


def test_a_student_may_take_a_value_from_elsewhere(many: Any, on_films: list[str]) -> None:
    typed = [*on_films, "baseline=false", "student.num_hidden_layers=1", "data.limit=32"]
    done = many({"x": [*typed, "student.intermediate_size=${data.batch_size}"]})["x"]
    assert done["code"] == 0, done["error"]
    assert json.loads((done["folder"] / "student" / "config.json").read_text())["intermediate_size"] == 32
    assert "bert, 1 layers of width 32," in done["told"]


def test_what_cannot_be_distilled_is_refused_before_the_teacher_is_trained(mistakes: dict[str, Any]) -> None:
    for name in ("layers", "heads", "rate"):
        assert "fine-tuned" not in mistakes[name]["told"]


def test_wrong_rows_are_named(many: Any, tmp_path: Path, write_rows: Callable[..., None], on_films: list[str]) -> None:
    texts = ["one", "two", "three", "four"]
    for name, labels in (("above", [0, 1, 2, 1]), ("words", ["no", "yes", "no", "yes"]), ("empty", [])):
        for split in ("train", "validation"):
            write_rows(tmp_path / name / f"{split}.parquet", sentence=texts[: len(labels)], label=labels)
    write_rows(tmp_path / "half" / "train.parquet", sentence=texts, label=[0, 1, 0, 1])
    (tmp_path / "folder" / "train.parquet").mkdir(parents=True)
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "train.parquet").symlink_to("/nowhere.parquet")
    wrong = pa.array([b"\xff\xfe", b"a"] * 2).view(pa.string())
    write_rows(tmp_path / "latin" / "train.parquet", sentence=wrong, label=[0, 1, 0, 1])
    here = [*on_films, f"data.root={tmp_path}"]
    names = ("above", "words", "empty", "half", "folder", "link", "latin")
    results = many({name: [*here, f"data.name={name}"] for name in names})
    assert "train.parquet is a folder, and should be a Parquet file" in results["folder"]["error"]
    assert "train.parquet is a link to /nowhere.parquet, which is not there" in results["link"]["error"]
    assert "latin/train.parquet, column 'sentence' holds what is not UTF-8 text" in results["latin"]["error"]
    assert "row 2 holds 2 where a label from 0 to 1 should be" in results["above"]["error"]
    assert "row 0 holds 'no'" in results["words"]["error"]
    assert "has no rows" in results["empty"]["error"]
    assert "validation.parquet" in results["half"]["error"]
    assert all(found["error"].count("\n") == 0 and found["code"] == 1 for found in results.values())


def test_a_teacher_for_other_labels_is_refused(many: Any, finished: tuple[Path, Any], on_films: list[str]) -> None:
    teacher = teacher_of(finished[0])
    found = many({"x": [*on_films, f"teacher.path={teacher}", "data.num_labels=3"]})["x"]
    assert "has 2 labels, but the data has 3" in found["error"]


def test_the_shell_sees_one_line_and_an_exit_code(command: Any, tmp_path: Path) -> None:
    done = command(tmp_path, "temprature=4", fresh=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: There is no key 'temprature'")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_help_lists_every_group(command: Any, tmp_path: Path) -> None:
    done = command(tmp_path, "--help")
    assert done.returncode == 0
    groups = {folder.name for folder in CONFIGS.iterdir() if folder.is_dir()} - {"local", "hydra"}
    assert all(f"\n{group}: " in done.stdout for group in groups)
    assert "train.py experiment=sst2_t4tiny" in done.stdout


# -- a sweep -------------------------------------------------------------------------------------------------------


def test_a_sweep_ends_with_one_table_and_tells_of_its_failures(
    command: Any, tmp_path: Path, on_films: list[str]
) -> None:
    typed = [*on_films, "baseline=false", "temperature=2,8", "match=hidden_mse,L4t_hidden_mse", "hydra.sweep.dir=all"]
    done = command(tmp_path, "-m", *typed)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    sweep = tmp_path / "all"
    with (sweep / "sweep.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["temperature"], row["match"], row["status"]) for row in rows] == [
        ("2", "hidden_mse", "ok"),
        ("2", "L4t_hidden_mse", "failed"),
        ("8", "hidden_mse", "ok"),
        ("8", "L4t_hidden_mse", "failed"),
    ]
    assert [bool(row["error"]) for row in rows] == [False, True, False, True]
    assert all(row["student/accuracy"] for row in rows if row["status"] == "ok")
    assert [row["seconds/teacher"] for row in rows if row["status"] == "ok"][1] == "0.0"  # one teacher for all
    assert "| --- |" in (sweep / "sweep.md").read_text()
    assert (sweep / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert "4 jobs, 2 without a result" in done.stdout
    assert (sweep / "0" / "student" / "model.safetensors").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["all"]
