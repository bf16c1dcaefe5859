from __future__ import annotations

import os
from pathlib import Path

import pytest

from kd_lightning.data import TextClassification

FOLDER = Path(os.environ.get("KD_DATA") or Path(__file__).parents[2] / "../shared/data")


@pytest.fixture
def real() -> Path:
    if not (FOLDER / "sst2").is_dir():
        pytest.skip(f"no data sets in {FOLDER}; set KD_DATA to a folder that has sst2/ and rte/")
    return FOLDER


def test_sst2_is_read_whole(real, tokenizer, tmp_path):
    data = TextClassification("sst2", "sentence", tokenizer=tokenizer, root=real, cache_dir=tmp_path, batch_size=64)
    data.setup("fit")
    assert data.sizes == {"train": 67349, "validation": 872}
    labels = [label for batch in data.val_dataloader() for label in batch["labels"].tolist()]
    assert (labels.count(1), labels.count(0)) == (444, 428)
    train = data.train_dataloader()
    assert sum(int(batch["labels"].sum()) for batch in train) == 37569
    assert len(train) == -(-67349 // 64)


def test_rte_is_read_as_pairs(real, tokenizer, tmp_path):
    text = ["sentence1", "sentence2"]
    data = TextClassification("rte", text, tokenizer=tokenizer, root=real, cache_dir=tmp_path, max_length=64)
    data.setup("fit")
    assert data.sizes == {"train": 2490, "validation": 277}
    batch = next(iter(data.train_dataloader()))
    assert set(batch["token_type_ids"].unique().tolist()) == {0, 1}
    assert batch["input_ids"].shape[1] <= 64
