"""Two gloo processes score entities like one, although their batches hold parts of the same sentences."""

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

LABELS = ["O", "B-PER", "I-PER", "B-LOC"]

pytestmark = pytest.mark.ddp


def write(root: Path) -> None:
    draw = random.Random(0)
    words = [["".join(draw.choices("abc", k=draw.randint(1, 4))) for _ in range(n)] for n in (3, 30, 1, 0, 17, 8, 40)]
    tags = [draw.choices(LABELS, k=len(sentence)) for sentence in words]
    (root / "names").mkdir()
    parquet.write_table(pa.table({"tokens": words, "ner_tags": tags}), root / "names" / "validation.parquet")


def scores(root: Path, folder: Path) -> dict[str, float]:
    """Score noisy predictions that are a function of the row; write them into the folder."""
    tokenizer = build_tokenizer(["a b c ab bc ca"], vocab_size=12)
    splits = {"validation": "validation"}
    data = SequenceLabelling(
        "names", LABELS, tokenizer=tokenizer, root=root, splits=splits, max_length=12, batch_size=2, cache_dir=root
    )
    metric = data.recorder()
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


def worker(rank: int, root: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{root}/rendezvous", timedelta(seconds=60), world_size=2, rank=rank)
    try:
        (root / str(rank)).mkdir()
        torch.save(scores(root, root / str(rank)), root / str(rank) / "scores.pt")
    finally:
        distributed.destroy_process_group()


def read(file: Path) -> list[list[list[str]]]:
    """Return gold and predicted tags of a file in CoNLL's columns."""
    sentences = [block.splitlines() for block in file.read_text().removesuffix("\n\n").split("\n\n")]
    return [[[line.split()[column] for line in lines if line] for lines in sentences] for column in (1, 2)]


@pytest.mark.timeout(120)
def test_two_processes_score_and_write_like_one(tmp_path: Any) -> None:
    write(tmp_path)
    alone = scores(tmp_path, tmp_path)
    multiprocessing.spawn(worker, (tmp_path,), nprocs=2)
    for rank in ("0", "1"):
        assert torch.load(tmp_path / rank / "scores.pt") == alone
        assert (tmp_path / rank / "predictions.txt").read_text() == (tmp_path / "predictions.txt").read_text()
    gold, predicted = read(tmp_path / "predictions.txt")
    table = parquet.read_table(tmp_path / "names" / "validation.parquet")
    assert [tags for tags in gold if tags] == [tags for tags in table.column("ner_tags").to_pylist() if tags]
    functions = {"precision": precision_score, "recall": recall_score, "f1": f1_score, "accuracy": accuracy_score}
    assert alone == pytest.approx({name: function(gold, predicted) for name, function in functions.items()}, abs=1e-6)
    assert 0.2 < alone["f1"] < 0.9
