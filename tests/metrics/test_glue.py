"""GLUE's metrics, from the configurations' own metrics through padded batches."""

from __future__ import annotations

import copy
import csv
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from hydra.utils import instantiate
from pyarrow import parquet
from scipy import stats
from sklearn import metrics as sk

from kd_lightning.cli.configs import compose_config
from kd_lightning.data import build_tokenizer
from kd_lightning.metrics import LabelRecorder, Scores

WORDS = ["good", "bad", "film", "plot", "very", "not", "slow", "bright"]
ROWS = 37  # not divisible by two processes, nor by the batch size


ACCURACY = {"accuracy": sk.accuracy_score}
ORACLES: dict[str, dict[str, Any]] = {  # by data set, functions of labels and guesses
    "cola": ACCURACY | {"matthews": sk.matthews_corrcoef},
    "mrpc": ACCURACY | {"f1": sk.f1_score},
    "stsb": {
        "pearson": lambda labels, guesses: stats.pearsonr(labels, guesses)[0],
        "spearman": lambda labels, guesses: stats.spearmanr(labels, guesses)[0],
    },
    "mnli": ACCURACY,
    "sick": ACCURACY,
}


def oracle(name: str, guesses: list[Any], labels: list[Any]) -> dict[str, float]:
    """Return the scores of guesses by scikit-learn and SciPy."""
    return {score: function(labels, guesses) for score, function in ORACLES[name].items()}


class Bag(torch.nn.Module):
    """Logits from which words a row has, padding left out."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.table = torch.randn(100, labels, generator=generator)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return (self.table[input_ids] * attention_mask[..., None]).sum(1)


def write(folder: Path, name: str) -> None:
    draw = random.Random(3)
    texts = [" ".join(draw.choices(WORDS, k=1 + i % 7)) for i in range(ROWS)]
    classes = {"stsb": None, "cola": 2, "mrpc": 2}.get(name, 3)
    labels = [draw.randint(0, 50) / 10 if classes is None else draw.randrange(classes) for _ in range(ROWS)]
    columns = {"sentence": texts, "premise": texts, "sentence1": texts, "label": labels}
    columns |= {column: [*texts[1:], texts[0]] for column in ("hypothesis", "sentence2")}
    (folder / name).mkdir(parents=True)
    for stem in ("train", "validation", "validation_matched", "validation_mismatched"):
        parquet.write_table(pa.table(columns), folder / name / f"{stem}.parquet")


def given(folder: Path, name: str) -> tuple[Any, Any]:
    """Return the configuration and its data module, with a tokenizer of its own."""
    cfg = compose_config([f"data={name}", f"data.root={folder}", "data.batch_size=4", "+data.eval_batch_size=4"])
    data = instantiate(cfg.data)
    data.tokenizer, data.cache_dir = build_tokenizer([" ".join(WORDS)] * 2, vocab_size=60), folder / "cache"
    return cfg, data


def validated(folder: Path, name: str) -> dict[str, float]:
    cfg, data = given(folder, name)
    task = instantiate(cfg.task)
    scores, recorder, model = Scores(task.metrics_for(data)), task.recorder(data), Bag(data.num_labels)
    for batch in data.val_dataloader():
        features = {"logits": model(batch["input_ids"], batch["attention_mask"])}
        scores.update(features, batch)
        recorder.update(features, batch)
    found = {key: value.item() for key, value in scores.compute().items()}
    recorder.compute()
    recorder.write(folder)
    return found


def row_by_row(folder: Path, name: str) -> tuple[list[Any], list[Any]]:
    """Return guesses and labels, one text at a time, without loaders or padding."""
    cfg, data = given(folder, name)
    columns = [cfg.data.text] if isinstance(cfg.data.text, str) else list(cfg.data.text)
    model, guesses = Bag(data.num_labels), []
    rows = parquet.read_table(folder / name / f"{cfg.data.splits.validation}.parquet").to_pylist()
    for row in rows:
        encoded = data.tokenizer(*[row[column] for column in columns], return_tensors="pt")
        logits = model(encoded["input_ids"], encoded["attention_mask"])[0]
        guesses.append(logits.item() if len(logits) == 1 else int(logits.argmax()))
    return guesses, [row["label"] for row in rows]


@pytest.mark.parametrize("name", ORACLES)
def test_scores_are_those_of_other_libraries(name: str, tmp_path: Path) -> None:
    write(tmp_path, name)
    found = validated(tmp_path, name)
    guesses, labels = row_by_row(tmp_path, name)
    assert found == pytest.approx(oracle(name, guesses, labels), abs=1e-5)


@pytest.mark.parametrize("name", ORACLES)
def test_the_predictions_that_are_written_score_the_same(name: str, tmp_path: Path) -> None:
    write(tmp_path, name)
    found = validated(tmp_path, name)
    with (tmp_path / "predictions.tsv").open() as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    assert [row["index"] for row in rows] == [str(row) for row in range(ROWS)]
    names = ["entailment", "neutral", "contradiction"] if name in ("mnli", "sick") else ["0", "1"]
    guesses = [float(row["prediction"]) if name == "stsb" else names.index(row["prediction"]) for row in rows]
    labels = parquet.read_table(next((tmp_path / name).glob("validation*.parquet")))["label"].to_pylist()
    assert found == pytest.approx(oracle(name, guesses, labels), abs=1e-4)


# -- the recorder by itself ----------------------------------------------------------------------------------------


def recorded(recorder: LabelRecorder, logits: list[list[float]], folder: Path) -> list[str]:
    for row in reversed(range(len(logits))):  # rows come in any order
        recorder.update({"logits": torch.tensor([logits[row]])}, {"sample_id": torch.tensor([row])})
    recorder.compute()
    return [line.split("\t")[1] for line in recorder.write(folder).read_text().splitlines()[1:]]


def test_several_labels_per_row_are_written_with_commas(tmp_path: Path) -> None:
    recorder = LabelRecorder(["joy", "anger", "fear"], multilabel=True)
    assert recorded(recorder, [[1.0, -1.0, 0.1], [-1.0, -0.1, -2.0]], tmp_path) == ["joy,fear", ""]
    assert recorded(LabelRecorder(multilabel=True), [[1.0, -1.0, 0.1]], tmp_path) == ["0,2"]


def test_numbers_are_written_as_they_are(tmp_path: Path) -> None:
    found = recorded(LabelRecorder(regression=True), [[2.5], [-0.125]], tmp_path)
    assert [float(value) for value in found] == [2.5, -0.125]


def test_without_batches_no_row_is_written(tmp_path: Path) -> None:
    recorder = LabelRecorder()
    assert recorder.compute() == {}
    assert recorder.write(tmp_path).read_text() == "index\tprediction\n"


def test_reset_clears_the_first_validation(tmp_path: Path) -> None:
    recorder = LabelRecorder()
    for logits in ([[0.0, 1.0]], [[1.0, 0.0]]):
        recorder.reset()
        recorder.update({"logits": torch.tensor(logits)}, {"sample_id": torch.tensor([5])})
        recorder.compute()
    assert recorder.write(tmp_path).read_text() == "index\tprediction\n5\t0\n"


def test_rows_have_the_numbers_of_the_file_and_copies_share_the_data(tmp_path: Path) -> None:
    class Data:
        def row_numbers(self, split: str) -> list[int]:
            return {"validation": [3, 7]}[split]

        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            raise AssertionError("a copy of the recorder copies the data set")

    recorder = copy.deepcopy(LabelRecorder(row_numbers=Data().row_numbers))
    recorder.update({"logits": torch.eye(2)}, {"sample_id": torch.tensor([0, 1])})
    recorder.compute()
    assert recorder.write(tmp_path).read_text() == "index\tprediction\n3\t0\n7\t1\n"
