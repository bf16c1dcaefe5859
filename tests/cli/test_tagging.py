from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from seqeval.metrics import f1_score

FIRST, LAST, TOWNS = ["Ada", "Alan", "Grace"], ["May", "Hill", "Field"], ["Oslo", "Rome", "May"]
OTHERS = ["the", "in", "saw", "may", "hill", "was", "field", "."]
LABELS = "[O,B-PER,I-PER,B-LOC,I-LOC]"


def sentence(draw: random.Random) -> tuple[list[str], list[str]]:
    """Return words and tags; May is a town, or a family name where it follows a first name."""
    words, tags = [], []
    for _ in range(draw.randint(2, 5)):
        kind = draw.choice(["O", "O", "PER", "LOC"])
        if kind == "PER":
            words += [draw.choice(FIRST), draw.choice(LAST)]
            tags += ["B-PER", "I-PER"]
        words.append(draw.choice(TOWNS if kind == "LOC" else OTHERS))
        tags.append("B-LOC" if kind == "LOC" else "O")
    return words, tags


@pytest.fixture(scope="module")
def on_people(tmp_path_factory: pytest.TempPathFactory, write_rows: Any) -> list[str]:
    folder, draw = tmp_path_factory.mktemp("people"), random.Random(0)
    for split, rows in (("train", 500), ("validation", 100)):
        made = [sentence(draw) for _ in range(rows)]
        columns = {"tokens": [words for words, _ in made], "ner_tags": [tags for _, tags in made]}
        write_rows(folder / "people" / f"{split}.parquet", **columns)
    return ["data=conll2003", "data.name=people", f"data.labels={LABELS}", f"data.root={folder}"]


def f1_of(file: Path) -> float:
    """Score predictions in CoNLL's columns by nothing of ours."""
    sentences = [block.splitlines() for block in file.read_text().strip().split("\n\n")]
    gold, predicted = ([[line.split()[column] for line in lines] for lines in sentences] for column in (1, 2))
    return f1_score(gold, predicted, zero_division=0)


def check(run: Path, stages: tuple[str, ...]) -> dict[str, Any]:
    metrics = json.loads((run / "metrics.json").read_text())
    for stage in stages:
        assert set(metrics[stage]["metrics"]) == {"precision", "recall", "f1", "accuracy"}
        folder = run if stage == "student" else run / "stages" / stage
        own = f1_of(folder / "predictions" / "predictions.txt")
        assert metrics[stage]["metrics"]["f1"] == pytest.approx(own, abs=1e-6)
    return metrics


def test_a_student_learns_names_from_its_teacher(on_people: list[str], command: Any, tmp_path: Path) -> None:
    short = ["trainer.max_epochs=5", "teacher.trainer.max_epochs=5", "teacher.optimizer.lr=1e-3", "optimizer.lr=1e-3"]
    small = ["teacher=tiny_random", "teacher.architecture.num_hidden_layers=2", "student=t3", "data.batch_size=8"]
    once = ["temperature=1", "baseline=false", "cache=true", "data.max_length=12", "hydra.run.dir=here"]
    done = command(tmp_path, *on_people, *small, *short, "+student.num_hidden_layers=2", *once)
    assert done.returncode == 0, done.stderr
    metrics = check(tmp_path / "here", ("teacher", "student"))
    assert metrics["config"]["objective"]["terms"]["hard"]["weight"] == 0  # all it knows it has from the teacher
    assert all(metrics[stage]["metrics"]["f1"] > 0.9 for stage in ("teacher", "student"))
    assert "sentences are longer than 12 tokens" in done.stdout
    config = json.loads((tmp_path / "here" / "student" / "config.json").read_text())
    assert config["architectures"] == ["BertForTokenClassification"]
    assert config["label2id"] == {"O": 0, "B-PER": 1, "I-PER": 2, "B-LOC": 3, "I-LOC": 4}


@pytest.mark.slow
@pytest.mark.parametrize("typed", [["data=conll2003", "student=t3"], ["data=msra_ner", "student=bigru", "cache=true"]])
def test_real_names_are_tagged_by_every_model(typed: list[str], command: Any, tmp_path: Path, data_root: Path) -> None:
    if not (data_root / typed[0].removeprefix("data=")).is_dir():
        pytest.skip(f"no {typed[0].removeprefix('data=')} in {data_root}")
    more = ["teacher=tiny_random", "debug=fast", f"data.root={data_root}", "baseline=true", "hydra.run.dir=here"]
    done = command(tmp_path, *typed, *more)
    assert done.returncode == 0, done.stderr
    check(tmp_path / "here", ("teacher", "alone", "student"))


@pytest.mark.slow
def test_what_tags_cannot_have_is_refused_in_a_sentence(on_people: list[str], many: Any) -> None:
    fast = [*on_people, "teacher=tiny_random", "debug=fast", "student=t3"]
    wrong = {
        "augment": ([*fast, "augment=mask"], "Augmentations change tokens"),
        "labels": ([*fast, "data.labels=[O,B-PER,I-PER]"], r"the tag 'B-LOC', which data.labels does not name."),
    }
    found = many({name: typed for name, (typed, _) in wrong.items()})
    for name, (_, sentence) in wrong.items():
        assert sentence in found[name]["error"]
        assert not list(found[name]["folder"].rglob("*.ckpt"))
