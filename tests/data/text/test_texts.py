from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from kd_lightning.core.errors import DataError
from kd_lightning.data.text.texts import LONGEST, Texts

RECORDS = [{"text": "one", "id": 1}, {"text": "two\nlines", "id": 2}, {"text": "größer, “quoted”", "id": 3}]


def write(file: Path) -> Path:
    """Write the records in the format the name says."""
    if file.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(RECORDS), file)
    elif file.suffix == ".csv":
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, ["id", "text"])
            writer.writeheader()
            writer.writerows(RECORDS)
    elif file.suffix == ".jsonl":
        file.write_text("\n".join(json.dumps(record) for record in RECORDS) + "\n\n")
    else:
        file.write_text(json.dumps(RECORDS, indent=2))
    return file


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.jsonl", "a.json"])
def test_every_kind_of_table_gives_the_same_documents(tmp_path, name):
    texts = Texts.find(write(tmp_path / name))
    assert list(texts.documents()) == [["one"], ["two", "lines"], ["größer, “quoted”"]]
    assert next(texts.rows(["text"])) == ("one",)


def test_documents_of_plain_text_end_at_blank_lines(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeff one \n two\n \n\nthree\r\n", encoding="utf-8")
    assert list(Texts.find(tmp_path / "a.txt").documents()) == [["one", "two"], ["three"]]


def test_a_file_without_blank_lines_is_cut_into_documents_and_loses_nothing(tmp_path):
    lines = [f"line {i}" for i in range(2 * LONGEST + 3)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    documents = list(Texts.find(tmp_path / "a.txt").documents())
    assert [len(document) for document in documents] == [LONGEST, LONGEST, 3]
    assert [line for document in documents for line in document] == lines


def test_a_folder_is_read_with_all_below_it_in_a_fixed_order(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("c.txt", "b/a.txt", "a.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "README.md").write_text("not read")
    assert list(Texts.find(tmp_path).documents()) == [["a.txt"], ["b/a.txt"], ["c.txt"]]


def test_of_a_data_set_only_the_training_split_is_read(tmp_path):
    for split in ("train", "validation"):
        (tmp_path / f"{split}.txt").write_text(split)
    assert list(Texts.find(tmp_path).documents()) == [["train"]]
    assert list(Texts.find(tmp_path.name, root=tmp_path.parent, split="validation").documents()) == [["validation"]]


def test_a_row_that_repeats_the_one_before_comes_once(tmp_path):
    parquet.write_table(pa.table({"context": ["a", "a", "b", "a"]}), tmp_path / "a.parquet")
    assert list(Texts.find(tmp_path, text="context").documents()) == [["a"], ["b"], ["a"]]


def test_rows_of_a_table_with_the_columns_are_taken_as_they_are(tmp_path):
    parquet.write_table(pa.table({"a": ["1", "2", None], "b": ["x", "y", "z"]}), tmp_path / "a.parquet")
    assert list(Texts.find(tmp_path).rows(["a", "b"])) == [("1", "x"), ("2", "y")]


def test_lines_that_follow_each_other_in_a_document_are_pairs(tmp_path):
    (tmp_path / "a.txt").write_text("a\nb\nc\n\nd\ne\n")
    assert list(Texts.find(tmp_path).rows(["x", "y"])) == [("a", "b"), ("b", "c"), ("d", "e")]


def test_a_document_of_one_line_gives_pairs_of_sentences(tmp_path):
    (tmp_path / "a.txt").write_text("One, two. Three! Four?\n\n第一句。第二句！第三句\n")
    expected = [("One, two.", "Three!"), ("Three!", "Four?"), ("第一句。", "第二句！"), ("第二句！", "第三句")]
    assert list(Texts.find(tmp_path).rows(["x", "y"])) == expected


def test_the_identity_is_that_of_the_contents(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("one")
    same = [Texts.find(tmp_path / name).identity() for name in ("a.txt", "b.txt")]
    assert same[0] == same[1]
    (tmp_path / "a.txt").write_text("two")
    assert Texts.find(tmp_path / "a.txt").identity() != same[0]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"", r"no text in .*a\.txt: every line is blank"),
        ("a.txt", b"fine\n\xff\xfe junk\n", r"a\.txt is not UTF-8 text after line"),
        ("a.txt", b"a\0b\n", r"a\.txt, line 1 holds a NUL character"),
        ("a.parquet", b"PAR1 junk", r"a\.parquet is not a readable Parquet file"),
        ("a.csv", b"", r"a\.csv is not a readable CSV file"),
        ("a.csv", b"id,txt\n1,a\n", r"a\.csv has no column 'text'\. Closest: txt\."),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a\.jsonl, line 2 is no JSON"),
        ("a.jsonl", b'{"text": 3}\n', r"column 'text', row 0 holds 3 where a text should be"),
        ("a.jsonl", b'"text"\n', r"line 1 holds 'text' where an object with texts should be"),
        ("a.json", b'[{"text": "a"}', r"its list is no JSON"),
        ("a.json", b'[{"txt": "a"}]', r"has no column 'text'\. Closest: txt\."),
    ],
)
def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        list(Texts.find(tmp_path / name).documents())


def test_places_that_are_not_there_are_named_with_the_nearest(tmp_path):
    (tmp_path / "hotpot").mkdir()
    with pytest.raises(DataError, match=r"no file or folder .*hotpots\. Closest: .*hotpot\."):
        Texts.find(tmp_path / "hotpots")
    with pytest.raises(DataError, match=r"no file or folder hotpt, nor a data set of that name in .*Closest: hotpot"):
        Texts.find("hotpt", root=tmp_path)
    with pytest.raises(DataError, match=r"hotpot holds no \.txt"):
        Texts.find(tmp_path / "hotpot")
    (tmp_path / "a.tx").write_text("a")
    with pytest.raises(DataError, match=r"a\.tx is of no kind that can be read. Closest: \.txt"):
        Texts.find(tmp_path / "a.tx")


def test_single_lines_are_no_pairs(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    with pytest.raises(DataError, match="no two texts that follow each other"):
        list(Texts.find(tmp_path).rows(["a", "b"]))


def test_a_large_file_is_read_a_little_at_a_time(tmp_path):
    """Documents arrive before the damage at the end is met: nothing reads ahead of what it gives."""
    draw = random.Random(0)
    lines = "\n\n".join(" ".join(draw.choices("abcdefgh", k=20)) for _ in range(20_000))
    (tmp_path / "a.txt").write_bytes(lines.encode() + b"\n\n\xff")
    documents: Any = Texts.find(tmp_path / "a.txt").documents()
    assert len([next(documents) for _ in range(15_000)]) == 15_000
    with pytest.raises(DataError, match="not UTF-8"):
        list(documents)


def test_contexts_of_a_real_data_set_are_documents(data_root):
    texts = Texts.find("cmrc2018", root=data_root, split="trial", text="context")
    documents = list(texts.documents())
    contexts = parquet.read_table(data_root / "cmrc2018" / "trial.parquet")["context"].to_pylist()
    assert {"".join(document) for document in documents} == {"".join(text.split("\n")).strip() for text in contexts}
    assert len(documents) < len(contexts) == 1002
