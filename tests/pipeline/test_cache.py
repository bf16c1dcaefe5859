"""`cache=true`: the same student as from a live teacher, from one cache for all who want the same."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kd_lightning.cli.configs import compose_config
from kd_lightning.core.errors import ConfigError
from kd_lightning.pipeline.checks import check_settings
from kd_lightning.teachers import TeacherCache

from .making import run_settings

SMALL = [
    "teacher.architecture.hidden_size=32",
    "teacher.architecture.num_hidden_layers=2",
    "teacher.architecture.intermediate_size=32",
    "callbacks.progress=null",
    "match=hidden_mse",
    "teacher.precision=null",
    "+teacher.trainer.limit_train_batches=2",  # so that runs of other lengths have one teacher
]


def metrics(result: dict[str, Any]) -> dict[str, Any]:
    assert result["code"] == 0, result
    return json.loads((result["folder"] / "metrics.json").read_text())


def cache_of(result: dict[str, Any], task: str = "") -> Path:
    found = json.loads((result["folder"] / "stages" / "cache" / "result.json").read_text())
    return Path(found["folders"][task])


@pytest.fixture(scope="module")
def results(many: Any, on_films: list[str], own_cache: Path) -> dict[str, Any]:
    """Run each command once, in this order, with caches of their own."""
    shutil.rmtree(own_cache / "caches", ignore_errors=True)
    plain, cached = [*on_films, *SMALL], [*on_films, *SMALL, "cache=true", "teacher.cache.dtype=fp32"]
    two = ["+data@tasks.other=sst2", "tasks.other.data.name=films", "tau=0.5"]
    return many(
        {
            "live": plain,
            "cached": cached,
            "warmer": [*cached, "temperature=2"],
            "fewer": [*cached, "match=[]"],
            "longer": [*cached, "trainer.limit_train_batches=4"],
            "whole": [*cached, "trainer.limit_train_batches=null", "callbacks.last.every_n_train_steps=100"],
            "half": [*cached, "teacher.cache.dtype=bf16"],
            "tasks": [*cached, *two],
            "augmented": [*cached, "augment=mask"],
            "nobody": [*on_films, "cache=true", "teacher=none", "match=[]"],
            "strange": [*cached, "teacher.cache.dtype=int8", "seed=99"],
            "steps": [*cached, "trainer.max_epochs=-1", "trainer.max_steps=3", "trainer.limit_train_batches=null"],
            "quick": [*cached, "+trainer.fast_dev_run=true", "data.limit=200"],
        }
    )


def test_a_cached_teacher_makes_the_live_one_s_student(results):
    live, cached = metrics(results["live"]), metrics(results["cached"])
    assert live["student"]["metrics"] == cached["student"]["metrics"]
    weights = [load_file(results[name]["folder"] / "student" / "model.safetensors") for name in ("live", "cached")]
    # Not bit-equal: the teacher saw the same rows in batches of another length.
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)


def test_the_cache_s_seconds_are_told_and_nothing_else_of_it(results):
    cached = metrics(results["cached"])
    assert set(cached) == {"teacher", "alone", "student", "seconds", "config"}
    assert cached["seconds"]["cache"] > 0
    assert "cache took" in " ".join(results["cached"]["told"].split())
    assert "cache" not in metrics(results["live"])["seconds"]


@pytest.mark.parametrize("name", ["warmer", "fewer"])
def test_other_temperatures_and_fewer_features_find_the_same_cache(results, name):
    assert metrics(results[name])["seconds"]["cache"] == 0
    assert cache_of(results[name]) == cache_of(results["cached"])


def test_only_the_rows_that_are_trained_on_are_cached_and_later_ones_are_added(results, many):
    assert cache_of(results["longer"]) == cache_of(results["cached"]) == cache_of(results["whole"])
    assert metrics(results["longer"])["seconds"]["cache"] > 0
    cache = TeacherCache(cache_of(results["whole"]))
    assert cache.sample_ids.tolist() == list(range(256))
    sizes = [info.rows for info in cache.manifest.shards]
    batch = compose_config(["data=sst2"]).data.batch_size
    assert sizes == [2 * batch, 2 * batch, 256 - 4 * batch]


def test_another_precision_is_another_cache(results):
    assert cache_of(results["half"]) != cache_of(results["cached"])
    assert TeacherCache(cache_of(results["half"])).fingerprint.parts["dtype"] == "bf16"


def test_each_task_has_a_cache_of_its_own(results):
    assert set(metrics(results["tasks"])["seconds"]) == {"teacher", "cache", "alone", "student"}
    caches = {task: TeacherCache(cache_of(results["tasks"], task)) for task in ("films", "other")}
    assert {task: len(cache) for task, cache in caches.items()} == {"films": 256, "other": 256}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("augmented", "the augmentation changes rows in every epoch: type teacher.cache.views=8"),
        ("nobody", "there is no teacher: leave cache out"),
        ("strange", "Unknown dtype 'int8' of a teacher cache. Choices: bf16, fp16, fp32."),
    ],
)
def test_what_cannot_be_cached_is_one_sentence(results, name, sentence):
    assert results[name]["code"] == 1
    assert sentence in results[name]["error"]


def test_what_cannot_be_cached_is_said_before_a_teacher_is_trained(results):
    assert "fine-tuned into" not in results["strange"]["told"]


@pytest.mark.parametrize("name", ["steps", "quick"])
def test_however_a_run_is_cut_short_its_rows_are_there(results, name):
    metrics(results[name])


def unfinished(run: Path, name: str) -> list[str]:
    """Make a copy of a run that was killed before its student, and return how to resume it."""
    copy = run.with_name(name)
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "stages" / "student")
    (copy / "metrics.json").unlink()
    return [f"resume={copy}"]


def test_a_resumed_run_finds_its_cache_makes_it_again_or_says_what_is_wrong(results, many, tmp_path):
    half, cache = results["half"]["folder"], cache_of(results["half"])
    kept = tmp_path / "kept"
    shutil.copytree(cache, kept)
    shard = next(cache.glob("*.safetensors"))
    whole = (half / "student" / "model.safetensors").read_bytes()

    def resumed(name: str) -> dict[str, Any]:
        done = many({name: unfinished(half, name)})[name]
        return done | {"folder": half.with_name(name)}

    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    damaged = resumed("damaged")
    assert damaged["code"] == 1
    assert "its checksum differs" in damaged["error"]
    shard.unlink()  # what the sentence advises
    mended = resumed("mended")
    assert metrics(mended)["seconds"]["cache"] > 0
    assert (mended["folder"] / "student" / "model.safetensors").read_bytes() == whole
    shutil.rmtree(cache)
    assert (resumed("lost")["folder"] / "student" / "model.safetensors").read_bytes() == whole
    assert len(TeacherCache(cache)) == len(TeacherCache(kept))


def test_another_cache_s_damage_is_nobody_else_s_trouble(results, many, on_films, own_cache):
    (own_cache / "caches" / "aaa").mkdir()
    (own_cache / "caches" / "aaa" / "manifest.json").write_text("{broken")
    typed = [*on_films, *SMALL, "cache=true", "teacher.cache.dtype=fp32"]
    assert metrics(many({"again": typed})["again"])["seconds"]["cache"] == 0


def test_an_augmentation_that_is_switched_off_is_none():
    check_settings(run_settings(["cache=true", "data=sst2", "augment=mask", "data.augment.mask=null"]))
    with pytest.raises(ConfigError, match="augment"):
        check_settings(run_settings(["cache=true", "data=sst2", "augment=mask"]))


def test_a_damaged_cache_is_named_before_a_student_is_trained(results, many, on_films):
    shard = next(cache_of(results["half"]).glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    again = many({"again": [*on_films, *SMALL, "cache=true"]})["again"]
    assert again["code"] == 1
    assert str(shard) in again["error"]
    assert "its checksum differs" in again["error"]
    assert not (again["folder"] / "stages" / "student").exists()


@pytest.mark.slow
def test_two_jobs_at_once_make_one_cache(command, tmp_path, on_films, own_cache):
    typed = [*on_films, *SMALL, "cache=true", "seed=7", "baseline=false", "trainer.limit_train_batches=null"]
    with ThreadPoolExecutor(2) as shells:
        both = list(shells.map(lambda name: command(tmp_path, *typed, f"hydra.run.dir={name}"), ("one", "other")))
    assert [done.returncode for done in both] == [0, 0], both[0].stderr + both[1].stderr
    found = [
        json.loads((tmp_path / name / "stages" / "cache" / "result.json").read_text()) for name in ("one", "other")
    ]
    assert found[0]["folders"] == found[1]["folders"]
    cache = TeacherCache(found[0]["folders"][""])
    assert sum(info.rows for info in cache.manifest.shards) == len(cache) == 256
    students = [load_file(tmp_path / name / "student" / "model.safetensors") for name in ("one", "other")]
    torch.testing.assert_close(*students, rtol=0, atol=0)
