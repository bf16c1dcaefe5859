"""Text without labels beside the labelled rows of a data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kd_lightning.core.errors import DataError
from kd_lightning.data import Delete, MultiTask, SequenceLabelling, TextClassification, build_tokenizer
from kd_lightning.losses import HardLabels, LabelMSE

LINES = ["good film", "very bad plot", "not good", "film plot film", "bad"]


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """Five lines of text, in two documents."""
    (tmp_path / "more.txt").write_text("\n".join(LINES[:3]) + "\n\n" + "\n".join(LINES[3:]))
    return tmp_path / "more.txt"


@pytest.fixture
def films(root: Path, tokenizer: Any, more: Path) -> Callable[..., TextClassification]:
    """The data set with the five lines beside its 40 rows."""

    def made(**settings: Any) -> TextClassification:
        usual = {"text": "sentence", "batch_size": 4, "cache_dir": root.parent / "cache", "unlabelled": more}
        data = TextClassification("films", **({"tokenizer": tokenizer, "root": root} | usual | settings))
        data.setup("fit")
        return data

    return made


def test_lines_become_rows_without_labels_numbered_on(films, tokenizer):
    data = films()
    seen = {}
    for batch in data.train_dataloader():
        ids = [row[mask.bool()].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
        seen |= dict(zip(batch["sample_id"].tolist(), zip(ids, batch["labels"].tolist(), strict=True), strict=True))
    assert sorted(seen) == list(range(45))
    assert [seen[40 + i] for i in range(5)] == [(tokenizer(line)["input_ids"], -100) for line in LINES]
    assert all(label in (0, 1) for row, (_, label) in seen.items() if row < 40)
    assert data.sizes == {"train": 40, "validation": 11, "unlabelled": 5}


def test_a_ratio_takes_some_per_epoch(films):
    loader = films(unlabelled_ratio=0.05).train_dataloader()
    others = []
    for epoch in range(5):
        loader.batch_sampler.set_epoch(epoch)
        rows = [row for batch in loader for row in batch["sample_id"].tolist()]
        assert len(rows) == 42
        others += [row for row in rows if row >= 40]
    assert [others.count(row) for row in range(40, 45)] == [2] * 5


def test_validation_and_the_labelled_rows_are_what_they_were(films):
    data, without = films(), films(unlabelled=None)
    assert sorted(s for b in data.val_dataloader() for s in b["sample_id"].tolist()) == list(range(11))
    assert len(data.rows("train")) == len(without.rows("train")) == len(without.train_rows) == 40
    assert data.fingerprint != without.fingerprint
    assert data.fingerprint == films(unlabelled_ratio=0.5).fingerprint  # the same rows, of which a cache holds all


def test_a_cache_is_made_of_all_rows(films):
    data = films(unlabelled_ratio=0.05)
    once = [row for batch in data.iterate_once() for row in batch["sample_id"].tolist()]
    assert sorted(once) == list(range(45))
    some = [row for batch in data.iterate_once(np.array([3, 42])) for row in batch["sample_id"].tolist()]
    assert sorted(some) == [3, 42]


def test_changed_text_makes_new_rows_and_the_same_is_found_again(films, more):
    before = films().fingerprint
    assert films().fingerprint == before
    more.write_text("bad film")
    data = films()
    assert data.sizes["unlabelled"] == 1
    assert data.fingerprint != before


def test_lines_that_follow_each_other_are_pairs(films, tokenizer, write_rows, root):
    for split in ("train", "validation"):
        write_rows(root / "films" / f"{split}.parquet", a=["good", "bad film"], b=["plot", "very good"], label=[0, 1])
    data = films(text=["a", "b"])
    assert data.sizes["unlabelled"] == 3
    row = data.train_rows[2]
    expected = tokenizer(LINES[0], LINES[1])
    assert row["input_ids"].tolist() == expected["input_ids"]
    assert row["token_type_ids"].tolist() == expected["token_type_ids"]


def test_a_data_set_below_the_root_gives_the_same_columns_of_its_training_split(films, write_rows, root):
    for split, texts in (("train", ["good", "bad"]), ("validation", ["never this"])):
        write_rows(root / "other" / f"{split}.parquet", sentence=texts, label=[0] * len(texts))
    assert films(unlabelled="other").sizes["unlabelled"] == 2
    write_rows(root / "strange" / "train.parquet", body=["good"])
    (tmp := root / "alone.txt").write_text("good film")
    with pytest.raises(DataError, match="There are no two texts that follow each other in"):
        films(unlabelled=tmp, text=["sentence", "sentence"])
    with pytest.raises(DataError, match=r"strange/train.parquet has no column 'text'"):
        films(unlabelled="strange")
    assert films(unlabelled="strange", unlabelled_text="body").sizes["unlabelled"] == 1


@pytest.mark.parametrize("settings", [{"multilabel": True, "label": ["x", "y"]}, {"regression": True, "label": "z"}])
def test_labels_that_are_numbers_are_ignored_too(films, write_rows, root, settings):
    for split in ("train", "validation"):
        columns: dict[str, list[Any]] = {"x": [0, 1], "y": [1, 1], "z": [0.5, 3.0]}
        write_rows(root / "films" / f"{split}.parquet", sentence=["good", "bad"], **columns)
    data = films(**settings, batch_size=8)
    (batch,) = data.train_dataloader()
    logits = torch.randn(7, data.num_labels, requires_grad=True)
    loss = HardLabels() if "multilabel" in settings else LabelMSE()
    loss(logits, batch["labels"]).backward()
    counted = logits.grad.abs().sum(-1) > 0
    assert (counted == (batch["sample_id"] < 2)).all()
    assert counted.sum() == 2


def test_augmentations_change_unlabelled_rows_too(films):
    data = films(augment=Delete(0.5))
    rows = data.train_dataset()
    assert {tuple(rows[43, epoch]["input_ids"].tolist()) for epoch in range(30)} >= {(2, 6, 3), (2, 7, 3)}
    assert rows[43, 0]["labels"] == -100


def test_two_tokenizers_cut_it_both_ways(films, make_tokenizer):
    data = films()
    data.teacher_tokenizer = make_tokenizer(["film", "plot", "good"])
    data.setup()
    row = data.train_rows[42]
    assert (row["sample_id"], row["labels"]) == (42, -100)
    assert len(row["student"]["input_ids"]) == len(row["teacher"]["input_ids"]) == 4


def test_several_tasks_have_text_of_their_own(films):
    data = MultiTask({"a": films(), "b": films(unlabelled=None), "c": films(augment=Delete(0.2))}, steps=80)
    data.setup()
    found: dict[str, set[int]] = {"a": set(), "b": set(), "c": set()}
    for batch in data.train_dataloader():
        found[batch["task"]] |= {row for row in batch["sample_id"].tolist() if row >= 40}
    assert found == {"a": set(range(40, 45)), "b": set(), "c": set(range(40, 45))}


def test_tasks_are_drawn_by_the_rows_of_their_epochs(films, more):
    more.write_text("\n".join(LINES * 40))
    data = MultiTask({"a": films(unlabelled_ratio=0.5), "b": films(unlabelled=None)})
    data.setup()
    batches: Any = data.train_dataloader().batch_sampler
    assert batches.shares.tolist() == [pytest.approx(0.6), pytest.approx(0.4)]  # 60 of 240 rows, and 40


def test_words_of_a_plain_text_are_tagged_by_nobody(tmp_path, more, write_rows):
    for split in ("train", "validation"):
        write_rows(tmp_path / "ner" / f"{split}.parquet", tokens=[["in", "Rome"]], ner_tags=[["O", "B-LOC"]])
    tokenizer = build_tokenizer(["in Rome", *LINES], vocab_size=60)
    settings: Any = {"tokenizer": tokenizer, "root": tmp_path, "cache_dir": tmp_path, "unlabelled": more}
    data = SequenceLabelling("ner", labels=["O", "B-LOC", "I-LOC"], **settings)
    data.setup()
    assert data.sizes == {"train": 1, "validation": 1, "unlabelled": 5}
    row = data.train_rows[2]
    assert set(row["labels"].tolist()) == {-100}
    starts = [not piece.startswith("##") for piece in tokenizer.tokenize(LINES[1])]
    assert row["logits_mask"].tolist() == [0, *starts, 0]
    assert {batch["labels"].shape == batch["input_ids"].shape for batch in data.train_dataloader()} == {True}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"unlabelled_ratio": 0}, "unlabelled_ratio is rows for each labelled one, a number above 0; got 0"),
        ({"unlabelled_ratio": 0.001}, "takes none of 5 unlabelled rows"),
        ({"unlabelled": "nowhere"}, "no file or folder nowhere, nor a data set of that name in"),
    ],
)
def test_what_cannot_be_is_a_sentence(films, settings, words):
    with pytest.raises(DataError, match=words):
        films(**settings).train_dataloader()
