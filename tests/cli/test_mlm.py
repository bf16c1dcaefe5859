"""The language first, a task second: experiment=mlm_STUDENT, then a task from that student."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kd_lightning.cli.configs import compose_config
from kd_lightning.cli.settle import settings_of, settle
from kd_lightning.core.errors import ConfigError
from kd_lightning.pipeline.checks import check_settings

from .conftest import WORDS

SMALL = ["+student.hidden_size=48", "+student.num_attention_heads=4", "data.max_length=32"]
TEACHER = ["teacher=tiny_random", "teacher.architecture.hidden_size=32", "teacher.architecture.intermediate_size=64"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of the words that the data set `films` is made of, in orders that can be guessed."""
    folder = tmp_path_factory.mktemp("text")
    draw, size = random.Random(0), len(WORDS)
    orders = [(draw.randrange(size), draw.randrange(1, 4), draw.randint(4, 12)) for _ in range(600)]
    lines = [
        " ".join(WORDS[(start + step * place) % size] for place in range(length)) for start, step, length in orders
    ]
    (folder / "one.txt").write_text("\n\n".join([*lines[:300], "good", "bad"]))
    (folder / "two.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines[300:]))
    return folder


def test_a_cache_of_a_masked_language_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"hides other tokens of a row in every epoch: type teacher\.cache\.views=8"):
        check_settings(settings_of(settle(compose_config(["experiment=mlm_t4tiny", "data.path=DIR", "cache=true"]))))


@pytest.fixture(scope="module")
def chain(many: Any, text: Path, films_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    general = tmp_path_factory.mktemp("general") / "run"
    task = ["experiment=sst2_t4tiny", "data.name=films", f"data.root={films_root}", *TEACHER, "debug=fast"]
    run = ["experiment=mlm_t4tiny", f"data.path={text}", *TEACHER, *SMALL]
    short = ["trainer.max_epochs=4", "data.batch_size=8", "optimizer.lr=3e-3", "teacher.optimizer.lr=3e-3"]
    commands = {
        "general": [*run, *short, "match=[hidden_cosine,hidden_mse]", f"hydra.run.dir={general}"],
        "fast": [*run, "debug=fast", "data.whole_word=true"],
        "task": [*task, f"student.path={general}/student", "optimizer.lr=0"],
        "missing": [*task, f"student.path={general}/studnt"],
        "other": [*task, f"student.path={general}/student", "data.tokenizer=train"],
    }
    return many(commands) | {"run": general}


def result_of(chain: dict[str, Any], name: str) -> Path:
    assert chain[name]["code"] == 0, chain[name]
    return chain["run"] if name == "general" else chain[name]["folder"]


@pytest.mark.slow
def test_a_student_of_the_language_learns_and_is_left_with_its_head(chain: dict[str, Any]) -> None:
    folder = result_of(chain, "general")
    found = json.loads((folder / "metrics.json").read_text())
    assert set(found["student"]["metrics"]) == {"perplexity", "accuracy"}
    pieces = json.loads((folder / "student" / "config.json").read_text())["vocab_size"]
    assert found["student"]["metrics"]["perplexity"] < 0.5 * pieces  # of who knows nothing it is their number
    assert "cls.predictions.transform.dense.weight" in load_file(folder / "student" / "model.safetensors")
    result_of(chain, "fast")


@pytest.mark.slow
def test_a_task_starts_from_that_student(chain: dict[str, Any]) -> None:
    general, task = (load_file(result_of(chain, n) / "student" / "model.safetensors") for n in ("general", "task"))
    body = [name for name in task if name.startswith("bert.") and name in general]
    assert len(body) > 50
    assert all(torch.equal(task[name], general[name]) for name in body)
    assert "classifier.weight" in task
    tokenizers = [(result_of(chain, name) / "student" / "tokenizer.json").read_text() for name in ("general", "task")]
    assert json.loads(tokenizers[0])["model"] == json.loads(tokenizers[1])["model"]


@pytest.mark.slow
def test_a_student_that_is_not_there_or_reads_other_pieces_is_a_sentence(chain: dict[str, Any]) -> None:
    assert "holds no saved model (no config.json). Closest:" in chain["missing"]["error"]
    assert "has a tokenizer of its own, and the data another" in chain["other"]["error"]
