"""Two gloo processes compute the scores of one process, and write the same predictions."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score
from torch import distributed, multiprocessing

from kd_lightning.data import SequenceLabelling, build_tokenizer
from kd_lightning.metrics import AnswerScores
from kd_lightning.tasks import TokenClassificationTask

from ..reading import library
from . import test_answers as answers
from . import test_glue as glue

LABELS = ["O", "B-PER", "I-PER", "B-LOC"]

pytestmark = pytest.mark.ddp


def write_names(root: Path) -> None:
    draw = random.Random(0)
    words = [["".join(draw.choices("abc", k=draw.randint(1, 4))) for _ in range(n)] for n in (3, 30, 1, 0, 17, 8, 40)]
    tags = [draw.choices(LABELS, k=len(sentence)) for sentence in words]
    (root / "names").mkdir(parents=True)
    parquet.write_table(pa.table({"tokens": words, "ner_tags": tags}), root / "names" / "validation.parquet")


def names_scored(root: Path, folder: Path) -> dict[str, float]:
    """Score noisy predictions that are a function of the row; write them into the folder."""
    tokenizer = build_tokenizer(["a b c ab bc ca"], vocab_size=12)
    splits = {"validation": "validation"}
    data = SequenceLabelling(
        "names", LABELS, tokenizer=tokenizer, root=root, splits=splits, max_length=12, batch_size=2, cache_dir=root
    )
    metric = TokenClassificationTask("f1").recorder(data)
    for batch in data.val_dataloader():
        logits = torch.zeros(*batch["labels"].shape, len(LABELS))
        for row, sample in enumerate(batch["sample_id"].tolist()):
            noise = torch.rand(12, len(LABELS), generator=torch.Generator().manual_seed(sample))
            logits[row] = noise[: batch["labels"].shape[1]]
        right = torch.nn.functional.one_hot(batch["labels"].clamp(min=0), len(LABELS))
        metric.update({"logits": logits + 0.5 * right}, batch)
    found = {name: value.item() for name, value in metric.compute().items()}
    metric.write(folder)
    return found


def answers_scored(folder: Path, **settings: Any) -> tuple[dict[str, float], dict[str, str]]:
    """Return the scores of the questions below a folder, and the best answer to each."""
    data = answers.reads(folder / "data", **settings)
    metric = answers.fed(AnswerScores(data), data)
    scores = {name: value.item() for name, value in metric.compute().items()}
    return scores, {name: found[0][0] for name, found in metric.predicted.items()}


def worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    distributed.init_process_group("gloo", rendezvous, timedelta(seconds=600), world_size=2, rank=rank)
    try:
        found = {
            "glue": {name: glue.validated(folder / "glue", name) for name in glue.ORACLES},
            "answers": answers_scored(folder / "questions", eval_batch_size=3),
            "entities": names_scored(folder, folder / str(rank)),
        }
        torch.save(found, folder / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write all data sets, tokenise what two processes read, and run both processes on them."""
    folder = tmp_path_factory.mktemp("two")
    for name in glue.ORACLES:
        glue.write(folder / "glue", name)
        glue.given(folder / "glue", name)[1].setup()
    answers.reads(library(folder / "questions" / "data")).setup()
    write_names(folder)
    for rank in (0, 1):
        (folder / str(rank)).mkdir()
    multiprocessing.start_processes(worker, (folder,), nprocs=2, start_method="forkserver")
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> tuple[Any, Any]:
    """Return what each process found."""
    return torch.load(folder / "0.pt"), torch.load(folder / "1.pt")


@pytest.mark.parametrize("name", glue.ORACLES)
def test_two_processes_score_labels_like_other_libraries_do_in_one(folder: Path, ranks: Any, name: str) -> None:
    first, second = (found["glue"][name] for found in ranks)
    assert first == second
    assert first == pytest.approx(glue.oracle(name, *glue.row_by_row(folder / "glue", name)), abs=1e-5)
    assert len((folder / "glue" / "predictions.tsv").read_text().splitlines()) == glue.ROWS + 1


def test_two_processes_score_answers_like_one(folder: Path, ranks: Any) -> None:
    scores, best = answers_scored(folder / "questions")
    for found in ranks:
        assert found["answers"][0] == pytest.approx(scores)
        assert found["answers"][1] == best


def read(file: Path) -> list[list[list[str]]]:
    """Return gold and predicted tags of a file in CoNLL's columns."""
    sentences = [block.splitlines() for block in file.read_text().removesuffix("\n\n").split("\n\n")]
    return [[[line.split()[column] for line in lines if line] for lines in sentences] for column in (1, 2)]


def test_two_processes_score_and_write_entities_like_one(folder: Path, ranks: Any) -> None:
    """Their batches have parts of the same sentences."""
    alone = names_scored(folder, folder)
    for rank, found in enumerate(ranks):
        assert found["entities"] == alone
        assert (folder / str(rank) / "predictions.txt").read_text() == (folder / "predictions.txt").read_text()
    gold, predicted = read(folder / "predictions.txt")
    table = parquet.read_table(folder / "names" / "validation.parquet")
    assert [tags for tags in gold if tags] == [tags for tags in table.column("ner_tags").to_pylist() if tags]
    functions = {"precision": precision_score, "recall": recall_score, "f1": f1_score, "accuracy": accuracy_score}
    assert alone == pytest.approx({name: function(gold, predicted) for name, function in functions.items()}, abs=1e-6)
    assert 0.2 < alone["f1"] < 0.9
