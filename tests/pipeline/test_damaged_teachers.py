"""A teacher's folder in which something is cut, missing or of another kind: a sentence that names it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kd_lightning.core.errors import ConfigError
from kd_lightning.data.text.tokenizing import build_tokenizer
from kd_lightning.pipeline.teacher_model import load_teacher
from kd_lightning.tasks import ClassificationTask

from ..toys import bert

TASK = ClassificationTask("accuracy")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bert().save_pretrained(tmp_path)
    build_tokenizer(["a good film", "a bad plot"]).save_pretrained(tmp_path)
    return tmp_path


def cut(name: str, share: float) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content)) if share >= 0 else -1])

    return change


def setting(key: str, value: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {key: value}))

    return change


def test_a_whole_teacher_is_loaded(folder: Path) -> None:
    model, tokenizer = load_teacher(folder, TASK)
    assert model.config.num_labels == 3
    assert tokenizer.tokenize("good film")


@pytest.mark.parametrize("change", [
    *(cut("model.safetensors", share) for share in (0, 0.5, -1)),
    *(cut("config.json", share) for share in (0, 0.5)),
    *(cut("tokenizer.json", share) for share in (0, 0.5, -1)),
    lambda folder: (folder / "model.safetensors").unlink(),
    setting("model_type", "bertt"),
    setting("hidden_size", 32),
])  # fmt: skip
def test_a_damaged_teacher_is_named(folder: Path, change: Callable[[Path], object]) -> None:
    change(folder)
    with pytest.raises(ConfigError, match=f"{folder}.* cannot be loaded .*: save it there again, or give another"):
        load_teacher(folder, TASK)
