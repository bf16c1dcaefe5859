from __future__ import annotations

import logging

import pyarrow as pa
import pytest

from kd_lightning.data.extra import extra_source, one_table
from kd_lightning.data.files import Source
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
    assert extra_source("../x/test.parquet").identity(["text"]) if (root.parent / "x").exists() else True


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wole", "There is no data set 'wole' in .*Closest: whole"),
        ("other", "There is no train.parquet in .*Choices: test"),
        ("rest/tst", "There is no tst.parquet in .*Closest: test"),
    ],
)
def test_what_is_not_there_is_said(root, name, said):
    with pytest.raises(DataError, match=said):
        extra_source(name, root).table()


def test_on_the_hub_a_name_is_looked_up():
    hubs = {"drcd": {"hub": "clue/clue", "subset": "drcd"}, "cmrc2018": {"hub": "hfl/cmrc2018"}}
    assert extra_source("drcd", hubs=hubs) == Source("drcd", "train", None, "clue/clue", "drcd")
    assert extra_source("cmrc2018/test", hubs=hubs) == Source("cmrc2018", "test", None, "hfl/cmrc2018", None)
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
