from __future__ import annotations

import copy
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score
from torch import Tensor

from kd_lightning.metrics import EntityScores, Scores

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
Tags = list[list[str]]


class Sentences:
    """A data module whose rows are sentences."""

    available_splits = ("train", "validation", "test")

    def __init__(self, gold: Tags, words: list[list[str]] | None = None) -> None:
        self.gold = gold
        self.words = words

    def rebuild(self, split: str, rows: Any, tags: Any) -> SimpleNamespace:
        ends = torch.tensor([0, *(len(self.gold[row]) for row in rows)]).cumsum(0).tolist()
        found = {row: tags[ends[i] : ends[i + 1]] for i, row in enumerate(rows.tolist())}
        numbers = sorted(found)
        predicted = [[LABELS[tag] for tag in found[number]] for number in numbers]
        gold = [self.gold[number] for number in numbers]
        return SimpleNamespace(numbers=numbers, gold=gold, predicted=predicted)

    def sentences(self, split: str) -> Sentences:
        return self


def batch_of(predicted: Tags, rows: list[int]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return logits that predict these tags from the second position on, B-PER in the padding, and the batch."""
    length = max(map(len, predicted)) + 2
    logits = torch.zeros(len(rows), length, len(LABELS))
    logits[:, :, 1] = 0.5
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for row, tags in enumerate(predicted):
        mask[row, 1 : 1 + len(tags)] = 1
        for place, tag in enumerate(tags, 1):
            logits[row, place, LABELS.index(tag)] = 1.0
    return {"logits": logits}, {"logits_mask": mask, "sample_id": torch.tensor(rows)}


def found(gold: Tags, predicted: Tags, size: int = 2) -> dict[str, float]:
    metric = EntityScores(Sentences(gold))
    for start in range(0, len(gold), size):
        rows = list(range(start, min(start + size, len(gold))))
        metric.update(*batch_of([predicted[row] for row in rows], rows))
    return {name: value.item() for name, value in metric.compute().items()}


def theirs(gold: Tags, predicted: Tags) -> dict[str, float]:
    functions = {"precision": precision_score, "recall": recall_score, "f1": f1_score}
    scores = {name: function(gold, predicted, zero_division=0) for name, function in functions.items()}
    return scores | {"accuracy": accuracy_score(gold, predicted)}


HARD: dict[str, tuple[Tags, Tags, dict[str, float]]] = {  # and by hand: entities right, predicted, true
    "I after O": ([["O", "B-PER", "I-PER"]], [["O", "I-PER", "I-PER"]], {"f1": 1.0, "accuracy": 2 / 3}),
    "I at the start": ([["B-LOC", "O"]], [["I-LOC", "O"]], {"f1": 1.0}),
    "type changes inside": ([["B-PER", "I-PER"]], [["B-PER", "I-LOC"]], {"precision": 0.0, "recall": 0.0}),
    "I of another type begins one": (
        [["B-PER", "B-LOC"]],
        [["B-PER", "I-LOC"]],
        {"precision": 1.0, "recall": 1.0, "accuracy": 0.5},
    ),
    "two that touch": ([["B-PER", "B-PER"]], [["B-PER", "I-PER"]], {"precision": 0.0, "recall": 0.0, "f1": 0.0}),
    "none anywhere": ([["O", "O"]], [["O", "O"]], {"precision": 0.0, "f1": 0.0, "accuracy": 1.0}),
    "none predicted": ([["B-PER"]], [["O"]], {"precision": 0.0, "recall": 0.0, "f1": 0.0}),
    "none true": ([["O"]], [["B-PER"]], {"precision": 0.0, "recall": 0.0, "f1": 0.0}),
    "not across sentences": (
        [["B-PER"], ["I-PER", "O"]],
        [["B-PER"], ["B-PER", "O"]],
        {"precision": 1.0, "recall": 1.0, "f1": 1.0},
    ),
    "half right": (
        [["B-PER", "I-PER", "O", "B-LOC"], ["B-LOC"]],
        [["B-PER", "O", "O", "B-LOC"], ["O"]],
        {"precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5, "accuracy": 3 / 5},
    ),
}


@pytest.mark.parametrize("case", HARD)
def test_hard_cases_are_scored_as_by_hand_and_as_seqeval_does(case):
    gold, predicted, by_hand = HARD[case]
    ours = found(gold, predicted)
    assert {name: ours[name] for name in by_hand} == pytest.approx(by_hand, abs=1e-7)
    assert ours == pytest.approx(theirs(gold, predicted), abs=1e-7)


@pytest.mark.parametrize("seed", range(10))
def test_random_tags_are_scored_as_seqeval_does(seed):
    draw = random.Random(seed)
    lengths = [draw.randint(1, 12) for _ in range(20)]
    gold, predicted = ([draw.choices(LABELS, k=length) for length in lengths] for _ in range(2))
    assert found(gold, predicted, size=3) == pytest.approx(theirs(gold, predicted), abs=1e-7)


def test_scores_are_zero_without_batches_and_after_a_reset():
    metric = Scores({"entities": EntityScores(Sentences([["B-PER"]]))})
    zeros = dict.fromkeys(("precision", "recall", "f1", "accuracy"), 0.0)
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert metric.compute() == zeros
    metric.update(*batch_of([["B-PER"]], [0]))
    assert metric.compute()["f1"] == 1.0
    metric.reset()
    metric.update(*batch_of([["B-LOC"]], [0]))
    assert metric.compute()["f1"] == 0.0


def test_copies_share_the_data_but_no_state():
    metric = EntityScores(Sentences([["B-PER"]]))
    other = copy.deepcopy(metric)
    other.update(*batch_of([["B-PER"]], [0]))
    assert (other.compute()["f1"], len(metric.rows)) == (1.0, 0)


def test_half_precision_logits_are_accepted(tmp_path: Path):
    metric = EntityScores(Sentences([["B-PER"]]))
    features, batch = batch_of([["B-PER"]], [0])
    metric.update({"logits": features["logits"].bfloat16()}, batch)
    assert metric.compute()["f1"] == 1.0


def test_predictions_are_written_in_columns_that_conlleval_reads(tmp_path: Path):
    gold, predicted = [["O", "B-PER"], [], ["B-LOC", "O", "O"]], [["O", "I-PER"], [], ["O", "O", "B-LOC"]]
    metric = EntityScores(Sentences(gold, [["saw", "Ada"], [], ["New York", "\u3000", "é"]]))
    metric.update(*batch_of([predicted[2], predicted[0], predicted[1]], [2, 0, 1]))
    metric.compute()
    file = metric.write(tmp_path)
    assert file == tmp_path / "predictions.txt"
    assert file.read_text(encoding="utf-8") == "saw O O\nAda B-PER I-PER\n\n\nNew_York B-LOC O\n_ O O\né O B-LOC\n\n"


def test_the_split_is_that_of_the_batches(tmp_path: Path):
    class Two(Sentences):
        def rebuild(self, split: str, rows: Any, tags: Any) -> SimpleNamespace:
            self.asked = split
            return super().rebuild(split, rows, tags)

    data = Two([["B-PER"]])
    metric = EntityScores(data)
    features, batch = batch_of([["B-PER"]], [0])
    metric.update(features, batch | {"split": "test"})  # type: ignore[arg-type]
    metric.compute()
    assert data.asked == "test"


def test_incomplete_sentences_are_neither_scored_nor_written(tmp_path):
    class Cut:
        def rebuild(self, split, rows, tags):
            return SimpleNamespace(numbers=[], gold=[], predicted=[])

        def sentences(self, split):
            return SimpleNamespace(words=[["a", "b"]])

    scores = EntityScores(Cut())
    batch = {"sample_id": torch.tensor([0]), "logits_mask": torch.tensor([[1, 1]])}
    scores.update({"logits": torch.zeros(1, 2, 3)}, batch)
    assert set(map(float, scores.compute().values())) == {0.0}
    assert scores.write(tmp_path).read_text() == ""


def test_without_batches_an_empty_file_is_written(tmp_path):
    scores = EntityScores(None)
    scores.compute()
    assert scores.write(tmp_path).read_text() == ""
