"""Plans of several stages, strategies, row weights and curricula by the command."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import load_file

import kd_lightning as kd
from kd_lightning.cli.configs import CONFIGS, compose_config
from kd_lightning.cli.settle import settings_of, settle
from kd_lightning.core.errors import ConfigError
from kd_lightning.pipeline import Distil
from kd_lightning.pipeline.run import stages_of
from kd_lightning.pipeline.settings import RunSettings

PLANS = sorted(file.stem for file in (CONFIGS / "plan").glob("*.yaml"))
WIDE = ["experiment=rte_t3", "match=hidden_mse"]


def settled(*typed: str) -> RunSettings:
    return settings_of(settle(compose_config([*WIDE, *typed])))


# -- what stages change ----------------------------------------------------------------------------------------------


def test_the_default_plan_changes_nothing() -> None:
    settings = settled("baseline=true")
    assert settings.stages == {}
    assert all(settings.of(name) is settings for name in ("teacher", "alone", "student"))


def test_a_stage_has_its_own_terms_and_length() -> None:
    settings = settled("plan=tinybert", "trainer.max_epochs=30")
    features, student = (settings.of(name).tasks[""] for name in ("features", "student"))
    of_features = {name for name, term in features.objective["terms"].items() if term}
    of_student = {name for name, term in student.objective["terms"].items() if term}
    assert (of_features, of_student) == ({"hidden_mse"}, {"hard", "logits"})
    assert [settings.of(n).fitting.trainer["max_epochs"] for n in ("teacher", "features", "student")] == [30, 10, 3]


def test_a_value_of_a_stage_is_typed_at_its_path() -> None:
    settings = settled("plan=tinybert", "plan.features.trainer.max_epochs=4", "+plan.student.optimizer.lr=0.5")
    assert settings.of("features").fitting.trainer["max_epochs"] == 4
    assert settings.of("student").fitting.optimizer["lr"] == 0.5
    assert settings.fitting.optimizer["lr"] != 0.5


def test_what_follows_from_a_changed_value_follows() -> None:
    settings = settled("+plan.student.temperature=7.0", "plan=born_again", "seed=4")
    own = settings.of("student").tasks[""]
    assert own.objective["terms"]["logits"]["loss"]["temperature"] == 7.0
    assert (own.seed, own.data["seed"]) == (2004, 2004)
    assert settings.tasks[""].data["seed"] == 4


def test_a_stage_that_does_not_train_the_head_looks_for_unused_parameters() -> None:
    settings = settled("plan=tinybert", "trainer=ddp_cpu")
    found = {name: settings.of(name).fitting.trainer["strategy"] for name in ("features", "student")}
    assert found == {"features": "ddp_find_unused_parameters_true", "student": "ddp"}


@pytest.mark.parametrize(("typed", "found"), [("theseus", "_find_unused_parameters_true"), ("freeze", "")])
def test_a_strategy_that_skips_layers_looks_for_unused_parameters(typed: str, found: str) -> None:
    settings = settled(f"strategy={typed}", "trainer=ddp_cpu", "match=[]")
    assert settings.of("student").fitting.trainer["strategy"] == f"ddp{found}"


def test_another_target_replaces_the_whole() -> None:
    loss = "{_target_: kd_lightning.losses.HardTeacher}"
    own = settled(f"+plan.student.objective.terms.logits.loss={loss}").of("student").tasks[""]
    assert own.objective["terms"]["logits"]["loss"] == {"_target_": "kd_lightning.losses.HardTeacher"}


@pytest.mark.parametrize(
    ("typed", "epochs"),
    [
        (["plan=tinybert"], 13),
        (["plan=annealing", "trainer.max_epochs=5"], 10),
        (["plan=patient", "trainer.max_epochs=4"], 40),
        (["plan=takd", "trainer.max_epochs=5"], 5),
        (["plan=born_again", "trainer.max_epochs=5"], 5),
        (["plan=general_then_task", "trainer.max_epochs=5", "data.unlabelled=texts.txt"], 5),
        (["plan=tinybert", "+plan.alone.trainer.max_epochs=2"], 2),
    ],
)
def test_the_baseline_is_as_long_as_what_its_counterpart_goes_through(typed: list[str], epochs: int) -> None:
    assert settled("baseline=true", *typed).of("alone").fitting.trainer["max_epochs"] == epochs


@pytest.mark.parametrize("plan", PLANS)
def test_a_saved_configuration_means_the_same(plan: str) -> None:
    more = ["data.unlabelled=texts.txt"] if plan == "general_then_task" else []
    cfg = settle(compose_config([*WIDE, f"plan={plan}", "baseline=true", *more]))
    again = OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))))
    one, other = settings_of(cfg), settings_of(again)
    assert one.stages.keys() == other.stages.keys()
    for name in one.stages:
        assert one.of(name).tasks == other.of(name).tasks
        assert one.of(name).fitting == other.of(name).fitting
    assert one.config == other.config


def test_a_student_that_goes_on_is_what_it_was() -> None:
    settings = settled("+plan.first={_target_: kd_lightning.pipeline.Distil, student: {num_hidden_layers: 2}}",
                       "+plan.second={_target_: kd_lightning.pipeline.Distil, student: first}")  # fmt: skip
    assert settings.of("second").tasks[""].student["num_hidden_layers"] == 2
    stage = next(stage for stage in stages_of(settings) if stage.name == "second")
    assert isinstance(stage, Distil)
    assert (stage.start, stage.inputs) == ("first", ("first", "teacher", "cache"))


def check_all(typed: list[str]) -> None:
    from kd_lightning.pipeline.checks import check_settings

    settings = settled(*typed)
    for name in ("student", *settings.stages):
        check_settings(settings.of(name))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["plan=tinybert", "plan.student.student=feature"], "'feature', and must be a stage before it.*features"),
        (["plan=takd", "plan.student.teacher=student"], "must be a stage before it"),
        (["plan=takd", "+plan.assistant.enabled=false"], "'assistant', and must be a stage before it"),
        (["plan=tinybert", "plan.student.terms=[hard,logit]"], "no term here.*logits"),
        (["experiment=rte_t3", "match=[]", "plan=tinybert"], "none of the objective's terms"),
        (["plan=tinybert", "+plan.student.trainer.max_epoch=3"], "In stage 'student'.*max_epochs"),
        (["plan=tinybert", "+plan.student.keep=worst"], "keep"),
        (["plan=tinybert", "+plan.student.epochs=3"], "plan.student.epochs.*no argument"),
        (["plan=tinybert", "+plan.student.optimzer.lr=3"], "plan.student.optimzer.*no argument.*optimizer"),
        (["+plan.more=3"], "'plan.more' cannot be 3"),
        (["curriculum=loss"], "cache=true"),
        (["sample_weight=entropy", "data.batch_size=1"], "relative to their batch"),
        (["teacher=ema", "cache=true"], "changes with the student"),
        (["strategy=theseus", "cache=true"], "Theseus runs layers of the teacher"),
        (["plan=theseus", "cache=true"], "Theseus runs layers of the teacher"),
        (["sample_weight=entropy", "objective.terms.logits.loss._target_=kd_lightning.losses.RKDAngle"], "temperature"),
    ],
)
def test_mistakes_are_told_before_anything_runs(typed: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        check_all(typed)


@pytest.mark.parametrize("rule", sorted(file.stem for file in (CONFIGS / "sample_weight").glob("*.yaml")))
def test_every_row_weight_is_one_of_the_logits_term(rule: str) -> None:
    objective = instantiate(settled(f"sample_weight={rule}").tasks[""].objective, _convert_="all")
    made = objective.declared["logits"].sample_weight
    assert type(made).__name__.lower() == rule.removesuffix("_hard")
    assert getattr(made, "hard", False) == rule.endswith("_hard")
    assert made.normalize == (rule != "wsld")


# -- runs ------------------------------------------------------------------------------------------------------------


FEW = ("mutual", "takd", "cached", "ends_late", "mutual_strategy", "strange_member")
"""Runs of the fast tests; those of all plans and groups are slow ones."""


def commands_of(on_films: list[str]) -> dict[str, list[str]]:
    """Return commands on a small data set by name; students are as wide as the teacher."""
    shape = ["student=t3", "student.layers=uniform", "+student.num_hidden_layers=2"]
    small = [*on_films, *shape, "match=hidden_mse", "baseline=true"]
    texts = Path(on_films[2].partition("=")[2]) / "texts.txt"
    texts.write_text("\n\n".join(f"the film of {year} was bright and slow" for year in range(1900, 2000)))
    commands = {plan: [*small, f"plan={plan}"] for plan in PLANS if plan not in ("default", "general_then_task")}
    commands["fresh"] = [*small, "plan=tinybert", "seed=3"]
    commands["general_then_task"] = [*small, "plan=general_then_task", f"data.unlabelled={texts}", "baseline=false"]
    commands["cached"] = [*small, "plan=tinybert", "cache=true"]
    commands["layer_drop"] = [*small, "strategy=layer_drop"]
    commands["curriculum"] = [*small, "curriculum=loss", "cache=true", "baseline=false"]
    commands["weighted"] = [*small, "sample_weight=wsld", "baseline=false"]
    commands["twice"] = [*small, "plan=takd", "plan.student.teacher=[assistant,alone]", "match=[]"]
    commands["ends_late"] = [*small, "plan=takd", "+plan.student.student={hidden_size: 7}"]
    commands["mutual_strategy"] = [*small, "plan=mutual", "strategy=layer_drop"]
    commands["strange_member"] = [*small, "plan=born_again", "plan.ensemble.members=[student,generation_9]"]
    return commands


REFUSED = {
    "ends_late": "In stage 'student'",
    "mutual_strategy": "leave strategy out",
    "strange_member": "In stage 'ensemble': The member 'generation_9' is no stage.*Closest: generation_2",
}


@pytest.fixture(scope="module")
def runs(many: Any, on_films: list[str]) -> dict[str, Any]:
    return many({name: typed for name, typed in commands_of(on_films).items() if name in FEW})


@pytest.fixture(scope="module")
def every(many: Any, on_films: list[str]) -> dict[str, Any]:
    return many(commands_of(on_films))


@pytest.mark.slow
def test_all_of_them_run(every: dict[str, Any]) -> None:
    wrong = {name: run["error"] for name, run in every.items() if run["code"] and name not in REFUSED}
    assert wrong == {}


def result(runs: dict[str, Any], name: str) -> dict[str, Any]:
    return json.loads((runs[name]["folder"] / "metrics.json").read_text())


STAGES = {
    "tinybert": ["teacher", "alone", "features", "student"],
    "takd": ["teacher", "alone", "assistant", "student"],
    "born_again": ["teacher", "alone", "generation_1", "generation_2", "student", "ensemble"],
    "annealing": ["teacher", "alone", "annealed", "student"],
    "patient": ["teacher", "alone", "student"],
    "theseus": ["teacher", "alone", "replacing", "student"],
    "mutual": ["teacher", "alone", "student"],
    "general_then_task": ["general_teacher", "general", "teacher", "student"],
}


@pytest.mark.slow
@pytest.mark.parametrize("plan", STAGES)
def test_every_stage_is_an_entry_and_has_its_folder(plan: str, every: dict[str, Any]) -> None:
    metrics, folder = result(every, plan), every[plan]["folder"]
    assert [name for name in metrics if name not in ("seconds", "config")] == STAGES[plan]
    assert all((folder / "stages" / name / "result.json").is_file() for name in STAGES[plan])
    assert (folder / "student" / "config.json").is_file()
    assert (folder / "curves.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_stage_goes_on_from_the_students_weights(every: dict[str, Any]) -> None:
    """Two steps at a small learning rate move them little, and a fresh student would be far away."""
    folder, runs = every["tinybert"]["folder"], every
    first, second = (load_file(f / "student" / "model.safetensors") for f in (folder / "stages" / "features", folder))
    other = load_file(runs["fresh"]["folder"] / "student" / "model.safetensors")
    key = "bert.embeddings.word_embeddings.weight"
    near, far = (first[key] - second[key]).abs().mean(), (first[key] - other[key]).abs().mean()
    assert 0 < near < 0.2 * far


def test_a_features_stage_leaves_the_head_alone(runs: dict[str, Any]) -> None:
    folder = runs["cached"]["folder"]
    logged = (folder / "stages" / "features" / "csv" / "version_0" / "metrics.csv").read_text().splitlines()[0]
    assert "train/loss/hidden_mse_1" in logged
    assert "train/loss/logits" not in logged


@pytest.mark.slow
def test_an_ensemble_is_of_all_its_members(every: dict[str, Any]) -> None:
    metrics = result(every, "born_again")
    single = metrics["student"]["parameters"]
    assert metrics["ensemble"]["parameters"] == 3 * single
    assert metrics["ensemble"]["metrics"].keys() == metrics["student"]["metrics"].keys()


def test_every_peer_is_exported_and_the_best_is_the_student(runs: dict[str, Any]) -> None:
    folder = runs["mutual"]["folder"]
    told = json.loads((folder / "stages" / "student" / "result.json").read_text())
    peers = {name: folder / "stages" / "student" / "peers" / name / "student" for name in told["peers"]}
    assert list(peers) == ["peer_1", "peer_2"]
    weights = {name: load_file(place / "model.safetensors") for name, place in peers.items()}
    mine = load_file(folder / "student" / "model.safetensors")
    assert all(torch.equal(value, weights[told["best"]][key]) for key, value in mine.items())
    assert told["metrics"]["accuracy"] == max(scores["accuracy"] for scores in told["peers"].values())
    assert not torch.equal(*(w["bert.embeddings.word_embeddings.weight"] for w in weights.values()))


@pytest.mark.slow
def test_theseus_leaves_a_plain_student(every: dict[str, Any]) -> None:
    student = kd.load(every["theseus"]["folder"] / "stages" / "replacing" / "student")
    assert type(student).__name__ == "BertForSequenceClassification"
    assert len(student.bert.encoder.layer) == 2  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_later_stage_is_told_before_the_first_begins(name: str, runs: dict[str, Any]) -> None:
    assert runs[name]["code"] == 1
    assert re.search(REFUSED[name], runs[name]["error"])
    assert not list(runs[name]["folder"].glob("stages/*/result.json"))
    assert not (runs[name]["folder"] / "config.yaml").exists()  # so that it can be typed again, corrected


def test_a_finished_run_has_nothing_left_to_do(runs: dict[str, Any], command: Any, tmp_path: Path) -> None:
    folder = runs["takd"]["folder"]
    before = {file: file.stat().st_mtime_ns for file in folder.glob("stages/*/result.json")}
    done = command(tmp_path, f"resume={folder}")
    assert done.returncode == 0, done.stderr
    assert {file: file.stat().st_mtime_ns for file in before} == before
    (folder / "stages" / "student" / "result.json").unlink()
    done = command(tmp_path, f"resume={folder}")
    assert "finished: teacher, alone, assistant" in done.stdout + done.stderr
    assert (folder / "stages" / "student" / "result.json").is_file()


def test_the_table_has_every_stage(runs: dict[str, Any]) -> None:
    assert all(name in runs["takd"]["told"] for name in ("teacher", "student alone", "assistant", "student distilled"))


@pytest.mark.slow
def test_curves_of_a_curriculum_have_as_many_steps(every: dict[str, Any]) -> None:
    with (every["curriculum"]["folder"] / "stages" / "student" / "csv" / "version_0" / "metrics.csv").open() as lines:
        assert len([row for row in csv.DictReader(lines) if row.get("train/loss")]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "stage"),
    [
        (["plan=tinybert", "plan.student.trainer.max_epochs=20"], "student"),
        (["plan=tinybert", "plan.features.trainer.max_epochs=20"], "features"),
        (["plan=mutual", "trainer.max_epochs=20"], "student"),
        (["strategy=theseus", "trainer.max_epochs=20"], "student"),
        (
            ["teacher=ema", "student.layers=null", "data.tokenizer=train", "match=[]", "trainer.max_epochs=20"],
            "student",
        ),
    ],
)
def test_a_run_that_is_killed_in_a_stage_ends_the_same(
    more: list[str], stage: str, on_films: list[str], environment: dict[str, str], repository: Path, tmp_path: Path
) -> None:
    shape = ["student=t3", "student.layers=uniform", "+student.num_hidden_layers=2", "match=hidden_mse"]
    typed = [str(repository / "train.py"), *on_films, *shape, *more]
    start = partial(subprocess.Popen, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    whole = start([sys.executable, *typed, "hydra.run.dir=whole"])
    assert whole.wait() == 0, whole.stderr.read()  # type: ignore[union-attr]
    killed = start([sys.executable, *typed, "hydra.run.dir=killed"])
    last = tmp_path / "killed" / "stages" / stage / "checkpoints" / "last.ckpt"
    while not last.is_file() and killed.poll() is None:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    again = start([sys.executable, typed[0], "resume=killed"])
    assert again.wait() == 0, again.stderr.read()  # type: ignore[union-attr]
    one, other = (load_file(tmp_path / name / "student" / "model.safetensors") for name in ("whole", "killed"))
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in one.items())
