from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from kd_lightning.core.errors import DataError
from kd_lightning.data import TextClassification
from kd_lightning.data.labels import Labels

NLI = ("entailment", "neutral", "contradiction")


def named(order: list[str], labels: list[int]) -> Any:
    """A table whose labels are numbered in an order of its own, as `datasets` keeps it."""
    features = datasets.Features({"label": datasets.ClassLabel(names=order)})
    return datasets.Dataset.from_dict({"label": labels}, features=features).with_format("arrow")[:]


def test_names_become_their_numbers() -> None:
    table = pa.table({"label": ["neutral", "contradiction", "entailment"]})
    labels = Labels("label", 3, NLI).read(table, "here")
    assert labels.tolist() == [1, 2, 0]
    assert labels.dtype == np.int64


def test_numbers_in_another_order_are_put_into_ours_by_their_names() -> None:
    theirs = named(["neutral", "entailment", "contradiction"], [0, 1, 2, 1])
    assert Labels("label", 3, NLI).read(theirs, "here").tolist() == [1, 0, 2, 0]
    assert Labels("label", 3).read(theirs, "here").tolist() == [0, 1, 2, 1]


def test_names_that_are_others_change_no_number() -> None:
    theirs = named(["0", "1"], [0, 1])
    assert Labels("label", 2, ("no", "yes")).read(theirs, "here").tolist() == [0, 1]


def test_the_names_survive_a_parquet_file(tmp_path: Path) -> None:
    parquet.write_table(named(["neutral", "entailment", "contradiction"], [0, 1, 2]), tmp_path / "x.parquet")
    table = parquet.read_table(tmp_path / "x.parquet")
    assert Labels("label", 3, NLI).read(table, "here").tolist() == [1, 0, 2]


def test_numbers_to_predict_are_float() -> None:
    labels = Labels("label", 1, regression=True).read(pa.table({"label": pa.array([2, 5], pa.int64())}), "here")
    assert (labels.dtype, labels.tolist()) == (np.float32, [2.0, 5.0])


@pytest.mark.parametrize(
    ("labels", "values", "words"),
    [
        (Labels("label", 3, NLI), ["neutral", "entailement"], "row 1 holds 'entailement' .* Closest: entailment"),
        (Labels("label", 3), ["neutral"], r"row 0 holds 'neutral' .* give their names \(data\.labels\)"),
        (Labels("label", 3, NLI), [0, 3], r"row 1 holds 3 where a label from 0 to 2 should be \(num_labels=3\)"),
        (Labels("label", 3, NLI), [0, -1], r"row 1 holds -1 .* data\.drop_unlabelled=true"),
        (Labels("label", 3, NLI), ["neutral", "-"], r"row 1 holds '-' .* data\.drop_unlabelled=true"),
        (Labels("label", 1, regression=True), [1.0, None], "row 1 holds None where a number should be"),
        (Labels("label", 1, regression=True), [float("nan")], "row 0 holds nan where a number should be"),
        (Labels("label", 1, regression=True), [1.0, float("inf")], "row 1 holds inf where a number should be"),
    ],
)
def test_a_label_that_is_none_is_named_with_its_row(labels: Labels, values: list[Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        labels.read(pa.table({"label": values}), "here")


# -- in a data module ----------------------------------------------------------------------------------------------


def test_batches_of_numbers_to_predict(tmp_path: Path, tokenizer: Any, write_rows: Any) -> None:
    for split in ("train", "validation"):
        write_rows(
            tmp_path / "pairs" / f"{split}.parquet", a=["good", "bad film"], b=["plot", "good"], label=[2.5, 4.0]
        )
    data = TextClassification("pairs", ["a", "b"], regression=True, tokenizer=tokenizer, root=tmp_path)
    (batch,) = data.val_dataloader()
    assert data.num_labels == 1
    found = dict(zip(batch["sample_id"].tolist(), batch["labels"].tolist(), strict=True))
    assert found == {0: 2.5, 1: 4.0}
    assert batch["labels"].dtype.is_floating_point


def test_rows_without_a_label_are_left_out_and_counted(
    tmp_path: Path, tokenizer: Any, write_rows: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for split, labels in (("train", [0, -1, 2, None]), ("validation", [1, 1, 0, 2])):
        write_rows(tmp_path / "nli" / f"{split}.parquet", sentence=["good", "bad", "film", "plot"], label=labels)
    given = {"tokenizer": tokenizer, "root": tmp_path, "num_labels": 3}
    data = TextClassification("nli", "sentence", drop_unlabelled=True, **given)
    with caplog.at_level("INFO"):
        data.setup()
    assert data.sizes == {"train": 2, "validation": 4}
    assert "nli train: 2 rows without a label are left out." in caplog.messages
    assert data.texts("train") == ["good", "film"]
    with pytest.raises(DataError, match=r"row 1 holds -1 .* data\.drop_unlabelled=true"):
        TextClassification("nli", "sentence", **given).setup()


def test_a_split_without_any_label_is_an_error(tmp_path: Path, tokenizer: Any, write_rows: Any) -> None:
    write_rows(tmp_path / "nli" / "train.parquet", sentence=["good"], label=[-1])
    data = TextClassification("nli", "sentence", num_labels=2, drop_unlabelled=True, tokenizer=tokenizer, root=tmp_path)
    with pytest.raises(DataError, match=r"No row of .*train\.parquet has a label \(column 'label'\)"):
        data.setup()


def test_columns_may_have_other_names(tmp_path: Path, tokenizer: Any, write_rows: Any) -> None:
    write_rows(tmp_path / "snli" / "train.parquet", premise=["good"], hypothesis=["bad"], label=[1])
    write_rows(
        tmp_path / "snli" / "validation.parquet", sentence1=["film"], sentence2=["plot"], premise=["x"], label=[0]
    )
    rename = {"premise": "sentence1", "hypothesis": "sentence2"}
    data = TextClassification(
        "snli", ["sentence1", "sentence2"], num_labels=2, rename=rename, tokenizer=tokenizer, root=tmp_path
    )
    assert (data.texts("train"), data.texts("validation")) == (["good", "bad"], ["film", "plot"])


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (["train_10k", "validation"], r"no train\.parquet .* Type data\.splits\.train=train_10k to take that file"),
        (["test", "validation"], r"Type data\.splits\.train=validation data\.splits\.validation=test"),
        (["test", "train"], r"no validation\.parquet .* Type data\.splits\.validation=test"),
        (["trial", "validation"], r"no train\.parquet .* Closest: trial"),
    ],
)
def test_a_missing_split_is_answered_with_what_to_type(
    there: list[str], words: str, tmp_path: Path, tokenizer: Any, write_rows: Any
) -> None:
    for stem in there:
        write_rows(tmp_path / "films" / f"{stem}.parquet", sentence=["good"], label=[1])
    with pytest.raises(DataError, match=words):
        TextClassification("films", "sentence", num_labels=2, tokenizer=tokenizer, root=tmp_path).setup()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"labels": ["no", "yes"], "num_labels": 3}, "labels names 2 classes, but num_labels=3"),
        ({"regression": True, "num_labels": 2}, "regression predicts one number per row"),
        ({"regression": True, "multilabel": True}, "regression predicts one number per row"),
    ],
)
def test_settings_that_contradict_each_other_are_errors(given: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        TextClassification("films", "sentence", **given)


def test_the_number_of_classes_follows_from_their_names() -> None:
    assert TextClassification("films", "sentence", labels=list(NLI)).num_labels == 3
