from __future__ import annotations

import logging

import pyarrow as pa
import pytest

from kd_lightning.data import SequenceLabelling, TextClassification
from kd_lightning.data.reading.extra import extra_source, one_table
from kd_lightning.data.reading.files import Source
from kd_lightning.errors import DataError


@pytest.fixture
def root(tmp_path, write_rows):
    for name in ("whole/train", "whole/validation", "rest/validation", "rest/test", "other/test"):
        write_rows(tmp_path / f"{name}.parquet", text=[name])
    return tmp_path


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("whole", "whole/train"),
        ("whole/validation", "whole/validation"),
        ("rest", "rest/validation"),  # it has no train
        ("rest/test", "rest/test"),
    ],
)
def test_extra_data_is_found_below_the_root(root, name, found):
    assert extra_source(name, root).table()["text"].to_pylist() == [found]


def test_that_another_split_stands_in_is_said(root, caplog):
    with caplog.at_level(logging.WARNING):
        extra_source("whole", root)
        assert not caplog.text
        extra_source("rest", root)
    assert "has no train.parquet, so its validation.parquet is trained on" in caplog.text


def test_a_file_may_be_anywhere(root, monkeypatch):
    monkeypatch.chdir(root)
    for name in (f"{root}/other/test.parquet", "other/test.parquet"):
        assert extra_source(name, "/nowhere").table()["text"].to_pylist() == ["other/test"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wole", "There is no data set 'wole' in .*Closest: whole"),
        ("other", "There is no train.parquet in .*Choices: test. Type data.extra=.other/SPLIT. to take another"),
        ("rest/tst", "There is no tst.parquet in .*Closest: test"),
    ],
)
def test_what_is_not_there_is_said(root, name, said):
    with pytest.raises(DataError, match=said):
        extra_source(name, root).table()


def test_on_the_hub_a_name_is_looked_up():
    hubs = {"drcd": {"hub": "clue/clue", "subset": "drcd"}, "cmrc2018": {"hub": "hfl/cmrc2018"}}
    assert extra_source("drcd", hubs=hubs) == Source("drcd", "train", None, "clue/clue", "drcd", "extra")
    assert extra_source("cmrc2018/test", hubs=hubs) == Source("cmrc2018", "test", None, "hfl/cmrc2018", None, "extra")
    with pytest.raises(DataError, match=r"'drdc' is: give data.root=DIR.*Closest: drcd"):
        extra_source("drdc", hubs=hubs)


def test_tables_go_on_top_of_each_other_and_what_one_lacks_is_null():
    places = pa.array([{"text": ["a"], "answer_start": [1]}])
    narrow = pa.array([{"answer_start": [2], "text": ["b"]}])
    narrow = narrow.cast(pa.struct({"answer_start": pa.list_(pa.int32()), "text": pa.list_(pa.string())}))
    tables = [
        pa.table({"context": ["x"], "answers": places, "junk": [1]}),
        pa.table({"context": ["y"]}),
        pa.table({"answers": narrow, "context": ["z"]}),
    ]
    whole = one_table(tables, [Source(name, "train") for name in "abc"], ["context", "answers"])
    assert whole.column_names == ["context", "answers"]
    assert whole["context"].to_pylist() == ["x", "y", "z"]
    assert whole["answers"].to_pylist() == [
        {"text": ["a"], "answer_start": [1]},
        None,
        {"text": ["b"], "answer_start": [2]},
    ]


def test_a_column_of_another_kind_is_refused():
    tables = [pa.table({"answers": pa.array([{"text": ["a"]}])}), pa.table({"answers": ["a"]})]
    with pytest.raises(DataError, match=r"root/b/train.parquet does not go together with root/a/train.parquet: "):
        one_table(tables, [Source(name, "train", "root") for name in "ab"], ["answers"])


def test_texts_with_labels_take_extra_ones_under_other_column_names(root, make_tokenizer, write_rows):
    write_rows(root / "films" / "train.parquet", sentence=["good film", "bad"], label=[1, 0])
    write_rows(root / "films" / "validation.parquet", sentence=["good"], label=[1])
    write_rows(root / "plots" / "train.parquet", review=["good plot", "bad plot", "very bad"], label=[1, 0, 0])
    settings = {"tokenizer": make_tokenizer(), "root": root, "cache_dir": root / "cache"}
    data = TextClassification("films", "sentence", rename={"review": "sentence"}, extra=["plots"], **settings)
    data.setup()
    assert data.sizes == {"train": 5, "validation": 1}
    assert data.rows("train").values["labels"].tolist() == [1, 0, 1, 0, 0]
    assert data.texts() == ["good film", "bad", "good plot", "bad plot", "very bad"]
    with pytest.raises(DataError, match=r"plots/train.parquet has no column 'sentence'"):
        TextClassification("films", "sentence", extra=["plots"], **settings).setup()


def test_tagged_sentences_take_extra_ones(root, make_tokenizer, write_rows):
    tags = ["O", "B-X"]
    for name in ("seen", "more"):
        words = [["good", "film"], ["bad"]] if name == "seen" else [["very", "good", "plot"]]
        rows = {"tokens": words, "ner_tags": [[tags[i % 2] for i in range(len(sentence))] for sentence in words]}
        for split in ("train", "validation"):
            write_rows(root / name / f"{split}.parquet", **rows)
    settings = {"tokenizer": make_tokenizer(), "root": root, "cache_dir": root / "cache"}
    data = SequenceLabelling("seen", tags, extra="more/validation", **settings)
    data.setup()
    assert data.sizes == {"train": 3, "validation": 2}
    assert data.sentences("train").words[-1] == ["very", "good", "plot"]
