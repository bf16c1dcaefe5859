"""Question answering, from what is typed to a student that has learnt it, and the answers it leaves."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

WORDS = ["the", "a", "film", "plot", "actor", "scene", "was", "is", "very", "not", "slow", "bright", "dull", "of"]


@pytest.fixture(scope="module")
def on_gold(tmp_path_factory: pytest.TempPathFactory, write_rows: Any) -> list[str]:
    """What to type for a data set in which the answer begins with `gold` and ends with `coin`, some words on."""
    folder, draw = tmp_path_factory.mktemp("gold"), random.Random(0)
    for split, rows in (("train", 300), ("validation", 60)):
        columns: dict[str, list[Any]] = {name: [] for name in ("id", "context", "question", "answers")}
        for row in range(rows):
            answer = " ".join(["gold", *draw.choices(WORDS, k=row % 3), "coin"])
            before, after = (" ".join(draw.choices(WORDS, k=draw.randint(1, 30))) for _ in range(2))
            texts = f"{split} {row}", f"{before} {answer} {after}", "where is it"
            for name, value in zip(
                columns, (*texts, {"text": [answer], "answer_start": [len(before) + 1]}), strict=True
            ):
                columns[name].append(value)
        write_rows(folder / "gold" / f"{split}.parquet", **columns)
    rows = ["data.max_length=32", "data.stride=8", "data.max_question_length=8", "data.batch_size=8"]
    small = ["teacher.architecture.num_hidden_layers=2", "student=t3", "+student.num_hidden_layers=2"]
    return ["data=squad", "data.name=gold", f"data.root={folder}", "teacher=tiny_random", *rows, *small]


def test_a_student_learns_to_answer_from_its_teacher(on_gold: list[str], command: Any, tmp_path: Path) -> None:
    short = ["trainer.max_epochs=3", "teacher.trainer.max_epochs=3", "teacher.optimizer.lr=1e-3", "optimizer.lr=1e-3"]
    done = command(tmp_path, *on_gold, *short, "temperature=1", "baseline=false", "hydra.run.dir=here")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "here" / "metrics.json").read_text())
    assert metrics["config"]["objective"]["terms"]["hard"]["weight"] == 0  # all it knows it has from the teacher
    for stage in ("teacher", "student"):
        assert set(metrics[stage]["metrics"]) == {"exact_match", "f1"}
        assert metrics[stage]["metrics"]["exact_match"] > 90
        folder = tmp_path / "here" / ("predictions" if stage == "student" else "stages/teacher/predictions")
        answers = json.loads((folder / "predictions.json").read_text())
        assert set(answers) == {f"validation {row}" for row in range(60)}
        right = sum(text.startswith("gold") and text.endswith("coin") for text in answers.values())
        assert metrics[stage]["metrics"]["exact_match"] <= 100 * right / 60
        assert set(json.loads((folder / "nbest_predictions.json").read_text())) == set(answers)
    config = json.loads((tmp_path / "here" / "student" / "config.json").read_text())
    assert config["architectures"] == ["BertForQuestionAnswering"]


@pytest.mark.slow
def test_real_data_extra_data_and_the_cache_are_switches(many: Any, data_root: Path) -> None:
    if not (data_root / "cmrc2018").is_dir():
        pytest.skip(f"no data sets in {data_root}; set KD_DATA to a folder that has cmrc2018/ and drcd/")
    typed = [f"data.root={data_root}", "teacher=tiny_random", "student=t3", "debug=fast", "baseline=false"]
    found = many(
        {
            "cmrc2018": ["data=cmrc2018", *typed],
            "extra": ["data=cmrc2018", "data.extra=[drcd]", *typed],
            "cached": ["data=cmrc2018", "data.extra=[drcd]", "cache=true", *typed],
            "held_out": ["data=squad_v1_dev", *typed],
            "no_train": ["data=drcd", *typed],
            "dev_as_train": ["data=drcd", "data.splits.train=validation", "data.splits.validation=test", *typed],
        }
    )
    refused = found.pop("no_train")
    assert "There is no train.parquet" in refused["error"]
    assert "data.splits.train=validation data.splits.validation=test" in refused["error"]
    for name, outcome in found.items():
        assert (outcome["code"], outcome["error"]) == (0, ""), name
        metrics = json.loads((outcome["folder"] / "metrics.json").read_text())
        assert set(metrics["student"]["metrics"]) == {"exact_match", "f1"}
    live, cached = (json.loads((found[n]["folder"] / "metrics.json").read_text()) for n in ("extra", "cached"))
    assert cached["student"]["metrics"] == pytest.approx(live["student"]["metrics"])
