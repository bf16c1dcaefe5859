from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import parquet

from kd_lightning.core.errors import DataError
from kd_lightning.data import Padding, TextClassification, TokenRows

TEXTS = ["good film", "bad plot", "film", "very good not bad film"]
LISTS = [[0, 2], [1], [], [2, 0, 1]]
COLUMNS = {"rude": [1, 0, 0, 1], "loud": [0, 1, 0, 1], "long": [True, False, False, True]}
MATRIX = [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]


@pytest.fixture
def several(tmp_path: Path, write_rows: Any) -> Path:
    """A data folder with the set `several`: four rows that say their labels in both ways."""
    for split in ("train", "validation"):
        write_rows(tmp_path / "several" / f"{split}.parquet", text=TEXTS, labels=LISTS, **COLUMNS)
    return tmp_path


def data(root: Path, tokenizer: Any, **settings: Any) -> TextClassification:
    own = {"label": "labels", "num_labels": 3, "multilabel": True, "batch_size": 3, "cache_dir": root / "cache"}
    return TextClassification("several", "text", tokenizer=tokenizer, root=root, **(own | settings))


@pytest.mark.parametrize("label", ["labels", list(COLUMNS)], ids=["numbers", "columns"])
def test_labels_become_a_float_for_each_row_and_label(several, tokenizer, label):
    made = data(several, tokenizer, label=label)
    for loader in (made.train_dataloader(), made.val_dataloader()):
        seen = 0
        for batch in loader:
            assert batch["labels"].dtype == torch.float32
            assert batch["sample_id"].dtype == torch.int64
            assert batch["labels"].tolist() == [MATRIX[row] for row in batch["sample_id"].tolist()]
            seen += len(batch["labels"])
        assert seen == 4


def test_the_way_of_saying_labels_and_their_order_count_in_the_fingerprint(several, tokenizer):
    ways = [{}, {"num_labels": 4}, {"label": list(COLUMNS)}, {"label": list(COLUMNS)[::-1]}]
    assert len({data(several, tokenizer, **way).fingerprint for way in ways}) == 4


@pytest.mark.parametrize(
    ("columns", "settings", "sentence"),
    [
        ({"labels": [[0], [3]]}, {}, r"row 1 holds \[3\] where a list of labels from 0 to 2"),
        ({"labels": [[0], [-1, 1]]}, {}, r"row 1 holds \[-1, 1\] where a list"),
        ({"labels": [["a"], ["b"]]}, {}, r"row 0 holds \['a'\] where a list"),
        ({"labels": [[0], None]}, {}, "row 1 holds None where a list"),
        ({"labels": [0, 1]}, {}, r"row 0 holds 0 where a list .*multilabel=True"),
        ({"a": [0, 1], "b": [1, 2]}, {"label": ["a", "b"], "num_labels": 2}, "'b', row 1 holds 2 where 0 or 1"),
        ({"a": [0, None]}, {"label": ["a"], "num_labels": 1}, "'a', row 1 holds None where 0 or 1"),
        ({"a": [0, 1]}, {"label": ["a", "b"], "num_labels": 2}, r"no column 'b'"),
        ({"labels": [[0], [1]]}, {"multilabel": False}, r"row 0 holds \[0\] where a label from 0 to 2"),
    ],
)
def test_labels_that_cannot_be_used_are_named(several, tokenizer, write_rows, columns, settings, sentence):
    write_rows(several / "several" / "train.parquet", text=TEXTS[:2], **columns)
    with pytest.raises(DataError, match=sentence):
        data(several, tokenizer, **settings).setup()


def test_settings_that_contradict_each_other_are_errors(several, tokenizer):
    with pytest.raises(DataError, match=r"\['rude', 'loud'\]: several labels per row need multilabel=True"):
        data(several, tokenizer, label=["rude", "loud"], num_labels=2, multilabel=False)
    with pytest.raises(DataError, match="label names 2 columns, one per label, but num_labels=3"):
        data(several, tokenizer, label=["rude", "loud"])


def test_single_labels_stay_whole_numbers():
    rows = TokenRows({"input_ids": np.array([5, 6])}, np.array([0, 1, 2]), {"labels": np.array([1, 0])})
    batch = Padding({"input_ids": 0})([rows[0], rows[1]])
    assert (batch["labels"].dtype, batch["labels"].tolist()) == (torch.int64, [1, 0])
    assert batch["sample_id"].dtype == torch.int64


def test_a_model_of_several_labels_takes_the_batches_as_they_are(several, tokenizer):
    from transformers import BertConfig, BertForSequenceClassification

    from kd_lightning.losses import HardLabels

    batch = next(iter(data(several, tokenizer).train_dataloader()))
    batch.pop("sample_id")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = BertConfig(vocab_size=10, num_labels=3, problem_type="multi_label_classification", **sizes)
    output = BertForSequenceClassification(config).eval()(**batch)
    torch.testing.assert_close(HardLabels()(output.logits, batch["labels"]), output.loss)


TYPES = ("PER", "ORG", "LOC", "MISC")


def entity_types(source: Path, target: Path, write_rows: Any, rows: int | None = None) -> None:
    """Make the question which kinds of entities a sentence of CoNLL-2003 names: several labels on real text."""
    for split in ("train", "validation"):
        table = parquet.read_table(source / f"{split}.parquet").slice(0, rows).to_pylist()
        kinds = [{tag.partition("-")[2] for tag in row["ner_tags"]} for row in table]
        columns = {kind.lower(): [int(kind in named) for named in kinds] for kind in TYPES}
        columns["labels"] = [[i for i, kind in enumerate(TYPES) if kind in named] for named in kinds]
        write_rows(target / f"{split}.parquet", text=[" ".join(row["tokens"]) for row in table], **columns)


@pytest.mark.slow
def test_entity_types_of_real_sentences_are_read_alike_in_both_ways(data_root, tokenizer, tmp_path, write_rows):
    if not (data_root / "conll2003").is_dir():
        pytest.skip(f"no conll2003 in {data_root}")
    entity_types(data_root / "conll2003", tmp_path / "several", write_rows)
    both = [data(tmp_path, tokenizer, label=label, num_labels=4) for label in ("labels", [t.lower() for t in TYPES])]
    found = []
    for made in both:
        made.setup()
        assert made.sizes == {"train": 14041, "validation": 3250}
        found.append(torch.cat([batch["labels"] for batch in made.val_dataloader()]))
    assert torch.equal(*found)
    assert found[0].mean(0).tolist() == pytest.approx([0.3446, 0.2960, 0.4089, 0.2138], abs=1e-4)
