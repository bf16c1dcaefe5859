"""Text without labels: for the teacher to label, and for nobody else to see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from safetensors.torch import load_file

from kd_lightning.cli.configs import compose_config
from kd_lightning.core.errors import ConfigError
from kd_lightning.data.text.synthetic import word_tokenizer
from kd_lightning.pipeline.checks import check_settings
from kd_lightning.pipeline.setup import student_setup, teacher_setup
from kd_lightning.teachers import TeacherCache

from .making import run_settings, task_settings

LINES = "the film was slow\nthe plot was bright\n\na dull scene\nvery good\nnot very bright\nbad"


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "more.txt"
    file.write_text(LINES)
    return file


def test_neither_the_teachers_training_nor_the_student_alone_sees_it() -> None:
    settings = task_settings(["data=sst2", "data.unlabelled=DIR", "augment=mask", "data.root=DIR"])
    tokenizer = word_tokenizer(["good"])
    data: Any = student_setup(settings, {}, tokenizer).data
    assert (data.unlabelled, len(data.augment)) == ("DIR", 1)
    data = student_setup(settings, {}, tokenizer, labels_only=True).data
    assert (data.unlabelled, len(data.augment)) == (None, 1)
    data = teacher_setup(task_settings(["data=sst2", "data.unlabelled=DIR", "augment=mask", "teacher=minilm_l6"])).data
    assert (data.unlabelled, len(data.augment)) == (None, 0)
    assert student_setup(task_settings(["data=synthetic"]), {}, labels_only=True).data.name == "synthetic"


def test_of_several_tasks_none_shows_it_to_the_student_alone() -> None:
    typed = ["data=sst2", "+data@tasks.cola=cola", "data.unlabelled=A", "tasks.cola.data.unlabelled=B"]
    settings = run_settings(typed)
    assert [own.data["unlabelled"] for own in settings.tasks.values()] == ["A", "B"]
    alone: list[Any] = [student_setup(own, {}, word_tokenizer(["good"]), None, True) for own in settings.tasks.values()]
    assert [setup.data.unlabelled for setup in alone] == [None, None]


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["teacher=none"], "there is no teacher: leave it out"),
        (["objective.terms.logits.weight=0"], r"Nothing can be learnt.*Type objective\.terms\.logits\.weight=1"),
        (["~objective.terms.logits"], "Nothing can be learnt"),
        (["objective.terms.logits.weight=0", "match=hidden_mse", "objective.terms.hidden_mse.weight=0"], "Nothing can"),
    ],
)
def test_where_nobody_labels_it_is_a_sentence(typed: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_settings(run_settings(["data=sst2", "data.unlabelled=DIR", *typed]))


@pytest.mark.parametrize(
    "typed", [[], ["objective.terms.hard.weight=0"], ["~objective.terms.logits", "match=hidden_mse"]]
)
def test_any_term_that_learns_from_the_teacher_will_do(typed: list[str]) -> None:
    check_settings(run_settings(["data=sst2", "data.unlabelled=DIR", *typed]))


@pytest.mark.parametrize("name", ["sst2", "rte", "go_emotions", "conll2003", "msra_ner"])
def test_every_data_set_that_can_have_it_takes_it(name: str) -> None:
    cfg = compose_config([f"data={name}", "data.unlabelled=DIR", "data.unlabelled_ratio=0.5"])
    made = instantiate(cfg.data)
    assert (made.unlabelled, made.unlabelled_ratio, made.unlabelled_text) == ("DIR", 0.5, "text")


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(many: Any, on_films: list[str], more: Path) -> dict[str, Any]:
    small = ["student.num_hidden_layers=1", "student.hidden_size=24", "student.num_attention_heads=2"]
    small += ["teacher.architecture.num_hidden_layers=2", "trainer.limit_train_batches=null"]
    small += ["callbacks.last.every_n_train_steps=100"]
    more_text = [f"data.unlabelled={more}", "seed=3"]
    cached = ["cache=true", "teacher.cache.dtype=fp32", "data.unlabelled_ratio=0.01"]
    return many(
        {
            "without": [*on_films, *small, "seed=3", "baseline=true"],
            "with": [*on_films, *small, *more_text, "baseline=true", "objective.terms.hard.weight=0.5"],
            "cached": [*on_films, *small, *more_text, *cached],
        }
    )


def metrics(result: dict[str, Any]) -> dict[str, Any]:
    assert result["code"] == 0, result
    return json.loads((result["folder"] / "metrics.json").read_text())


def weights(result: dict[str, Any], place: str) -> dict[str, Any]:
    return load_file(result["folder"] / place / "student" / "model.safetensors")


def test_the_student_alone_is_the_one_without_that_text(results: dict[str, Any]) -> None:
    plain, more = metrics(results["without"]), metrics(results["with"])
    assert plain["alone"]["metrics"] == more["alone"]["metrics"]
    assert plain["teacher"]["metrics"] == more["teacher"]["metrics"]
    assert more["seconds"]["teacher"] == 0.0  # the same teacher, found again
    alone, again = (weights(results[name], "stages/alone") for name in ("without", "with"))
    assert all(torch.equal(alone[name], again[name]) for name in alone)
    taught, more_taught = (weights(results[name], ".") for name in ("without", "with"))
    assert not all(torch.equal(taught[name], more_taught[name]) for name in taught)


def test_a_cache_has_rows_with_labels_and_without(results: dict[str, Any]) -> None:
    metrics(results["cached"])
    (folder,) = json.loads((results["cached"]["folder"] / "stages/cache/result.json").read_text())["folders"].values()
    assert TeacherCache(folder).sample_ids.tolist() == list(range(256 + 6))
