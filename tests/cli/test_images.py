"""Images through the command: every stage, networks of ours and of Transformers, cached views, folders, errors."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import kd_lightning as kd

from .. import processes
from .test_killed import wait_for

CLASSES = ["bar", "dot"]


def photo(kind: str, seed: int, size: int = 16) -> bytes:
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 120, (size, size, 3), dtype=np.uint8)
    top, left = random.integers(2, size - 6, size=2)
    pixels[top : top + 2, left : left + (size if kind == "bar" else 2)] = 250
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 40), ("validation", 12)):
        for number in range(count):
            kind = CLASSES[number % 2]
            file = folder / split / kind / f"{number:03d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(photo(kind, number))
    return folder


@pytest.fixture(scope="module")
def runs(photos: Path, many: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    images = ["data=image_folder", f"data.path={photos}", "debug=fast", "data.batch_size=8", "augment=[crop]"]
    networks = ["teacher=resnet20_cifar", "teacher.model.depth=8", "student=resnet8", "optimizer=sgd"]
    cached = ["cache=true", "teacher.cache.views=2"]
    commands = {
        "whole": [*images, *networks, *cached, "mix=mixup", "baseline=true", "data.holdout=0.2", "seed=3"],
        "vit": [*images, "teacher=tiny_random_vit", "student=half_depth", "temperature=2"],
        "no_views": [*images, *networks, "cache=true"],
        "typo": [*images, *networks, "data.sise=32"],
    }
    return many(commands)


def test_every_stage_runs_and_leaves_its_results(runs: dict[str, Any]) -> None:
    done = runs["whole"]
    assert done["code"] == 0, done["error"]
    metrics = json.loads((done["folder"] / "metrics.json").read_text())
    for stage in ("teacher", "alone", "student"):
        assert 0 <= metrics[stage]["metrics"]["accuracy"] <= 1
        assert 0 <= metrics[stage]["selection"]["accuracy"] <= 1
        assert metrics[stage]["latency_ms"] > 0
    assert metrics["student"]["parameters"] == 78042 - 8 * 65  # two classes instead of ten
    predictions = (done["folder"] / "predictions" / "predictions.tsv").read_text().splitlines()
    assert len(predictions) == 13
    assert {line.split("\t")[1] for line in predictions[1:]} <= set(CLASSES)


def test_a_network_of_ours_is_opened_with_its_processor(runs: dict[str, Any], photos: Path) -> None:
    folder = runs["whole"]["folder"] / "student"
    assert {file.name for file in folder.iterdir()} == {
        *("checksums.json", "model.safetensors", "model.yaml", "preprocessor_config.json")
    }
    data = kd.data.ImageClassification("photos", path=photos)
    processor = data.load_processor(str(folder))
    with Image.open(photos / "train" / "bar" / "000.png") as image:
        logits = kd.load(folder)(**processor(image, return_tensors="pt"))
    assert logits.shape == (1, 2)


def test_transformers_opens_its_own_models(runs: dict[str, Any]) -> None:
    from transformers import AutoModelForImageClassification

    done = runs["vit"]
    assert done["code"] == 0, done["error"]
    model = AutoModelForImageClassification.from_pretrained(done["folder"] / "student")
    assert model.config.id2label == dict(enumerate(CLASSES))
    assert model(pixel_values=torch.zeros(1, 3, 16, 16)).logits.shape == (1, 2)


@pytest.mark.parametrize(("name", "says"), [
    ("no_views", "type teacher.cache.views=8"),
    ("typo", "data.size"),
])  # fmt: skip
def test_mistakes_are_named_before_training(runs: dict[str, Any], name: str, says: str) -> None:
    assert runs[name]["code"] == 1
    assert says in runs[name]["error"]


@pytest.mark.slow
@pytest.mark.parametrize("cache", [[], ["cache=true", "teacher.cache.views=2"]], ids=["live", "cached views"])
def test_killed_in_mid_epoch_with_mixup_and_resumed_a_student_is_bit_equal(
    cache: list[str], photos: Path, command: Any, environment: dict[str, str], repository: Path, tmp_path: Path
) -> None:
    typed = ["data=image_folder", f"data.path={photos}", "data.batch_size=1", "augment=[crop]", "mix=mixup", *cache]
    typed += ["teacher=resnet20_cifar", "teacher.model.depth=8", "teacher.trainer.max_epochs=1", "student=resnet8"]
    typed += ["optimizer=sgd", "trainer.max_epochs=4", "callbacks.last.every_n_train_steps=3"]
    whole = command(tmp_path, *typed, "hydra.run.dir=whole")
    assert whole.returncode == 0, whole.stderr
    argv, output = [str(repository / "train.py"), *typed, "hydra.run.dir=killed"], tmp_path / "output"
    process = processes.start(argv, tmp_path, environment, output, output)
    wait_for(tmp_path / "killed" / "stages" / "student" / "checkpoints" / "best.ckpt", process)
    time.sleep(0.1)
    assert process.is_alive(), "the run ended before it could be killed"
    process.kill()
    process.join()
    last = tmp_path / "killed" / "stages" / "student" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] % 40
    resumed = command(tmp_path, "resume=killed")
    assert resumed.returncode == 0, resumed.stderr
    for name in ("model.safetensors", "preprocessor_config.json"):
        parts = [(tmp_path / run / "student" / name).read_bytes() for run in ("whole", "killed")]
        assert parts[0] == parts[1], name


@pytest.mark.slow
def test_two_ranks_and_a_compiled_student_run_to_the_end(photos: Path, command: Any, tmp_path: Path) -> None:
    typed = ["data=image_folder", f"data.path={photos}", "data.batch_size=8", "augment=[crop]", "mix=cutmix"]
    typed += ["teacher=resnet20_cifar", "teacher.model.depth=8", "student=resnet8", "optimizer=sgd", "debug=fast"]
    for name, more in {"ranks": ["trainer=ddp_cpu"], "compiled": ["compile=true"]}.items():
        done = command(tmp_path, *typed, *more, f"hydra.run.dir={name}")
        assert done.returncode == 0, done.stderr
        assert "student" in json.loads((tmp_path / name / "metrics.json").read_text())
