"""Tables drawn at random, in every format: rows come out as they were written, or one error names file and place."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from transformers import BertTokenizerFast

from kd_lightning.core.errors import DataError
from kd_lightning.data import (
    DataModule,
    Delete,
    LanguageModelling,
    QuestionAnswering,
    SequenceLabelling,
    TextClassification,
)
from kd_lightning.data.readers import read_table, rows_of

drawn = settings(
    phases=[Phase.generate],derandomize=True, deadline=None, max_examples=30, database=None,
                 suppress_health_check=list(HealthCheck))  # fmt: skip
ODD = ["", " ", "NA", "null", "nan", "-", "1", "007", "😀👩‍👧", "\ufeffstart", "a,b", 'say "hi"', "tab\there", "a\r\nb"]
ODD += [
    "a\nb",
    "cr\rcr",
    "nul\0nul",
    "\u2028sep\u0085",
    "x" * 200_000,
    "é",
    "e\u0301",
    "'",
    "\\",
    "#",
    "{}",
    "[1]",
    "\x1a",
]
TEXTS = st.one_of(st.sampled_from(ODD), st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
PLAIN = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=8)
"""Texts that every format can hold."""
CLASSES = st.sampled_from([["no", "yes"], [0, 1], [3, 7, 9], [False, True], ["007", "7"], ["1e3", "one"], ["N/A", "é"]])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def write(file: Path, names: list[str], rows: list[tuple[Any, ...]], bom: bool = False, ends: str = "\n") -> Path:
    """Write a table as its suffix says, by other means than those that read it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        parquet.write_table(pa.Table.from_arrays([pa.array(c) for c in zip(*rows, strict=True)], names=names), file)
        return file
    if file.suffix in (".jsonl", ".json"):
        records = [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=len(rows) % 2 == 0) for row in rows]
        text = f"[{','.join(records)}]" if file.suffix == ".json" else ends.join(records)
        file.write_bytes(("\ufeff" * bom + text).encode())
        return file
    with file.open("w", encoding="utf-8-sig" if bom else "utf-8", newline="") as stream:
        if file.suffix == ".tsv":
            stream.write(ends.join("\t".join(map(str, row)) for row in [names, *rows]) + ends)
        else:
            bare = len(rows) % 2 == 0 and r"\r" not in repr(rows)  # Python's writer leaves these without quotes
            quoting = csv.QUOTE_MINIMAL if bare else csv.QUOTE_ALL
            writer = csv.writer(stream, lineterminator=ends, quoting=quoting)
            writer.writerows([names, *rows])
    return file


# -- what is read is what was written ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json", "parquet"])
@drawn
@given(
    rows=st.lists(st.tuples(TEXTS, st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=6),
    bom=st.booleans(),
    ends=st.sampled_from(["\n", "\r\n"]),
)
def test_every_text_comes_out_as_it_was_written(
    kind: str, place: Path, rows: list[tuple[str, int]], bom: bool, ends: str
) -> None:
    file = write(emptied(place / "now") / f"a.{kind}", ["text", "number"], rows, bom and kind != "parquet", ends)
    table = read_table(file, texts=["text"])
    assert [tuple(row.values()) for row in table.to_pylist()] == rows
    assert [text for (text,) in rows_of(file, ["text"])] == [text for text, _ in rows]


@drawn
@given(rows=st.lists(st.tuples(PLAIN, PLAIN), min_size=1, max_size=6), ends=st.sampled_from(["\n", "\r\n"]))
def test_tabs_part_texts_whatever_quotes_there_are(place: Path, rows: list[tuple[str, str]], ends: str) -> None:
    file = write(emptied(place / "now") / "a.tsv", ["text", "other"], rows, ends=ends)
    table = read_table(file, texts=["text", "other"])
    assert [tuple(row.values()) for row in table.to_pylist()] == rows


@drawn
@given(numbers=st.lists(st.one_of(st.integers(), st.floats(allow_nan=False), st.none(), PLAIN), min_size=1, max_size=5))
def test_a_column_of_csv_loses_no_difference(place: Path, numbers: list[Any]) -> None:
    """What is read as numbers has as many different values as what was written, and each means the same."""
    cells = ["" if value is None else str(value) for value in numbers]
    file = write(emptied(place / "now") / "a.csv", ["text", "label"], [("t", cell) for cell in cells])
    found = read_table(file, texts=["text"])["label"].to_pylist()
    for cell, value in zip(cells, found, strict=True):
        if isinstance(value, str | None):
            assert (value or "") == cell
        else:
            assert value == float(cell) or math.isnan(value)
    whole = [cell for cell in cells if cell.lstrip("-").isdecimal() and cell.isascii()]
    assert len(set(whole)) == len({value for value, cell in zip(found, cells, strict=True) if cell in whole})


@drawn
@given(texts=st.lists(st.one_of(st.just("one\n  two\n\nlast"), TEXTS), min_size=1, max_size=5), bom=st.booleans())
def test_text_files_are_read_as_they_are(place: Path, texts: list[str], bom: bool) -> None:
    folder = emptied(place / "now")
    for number, text in enumerate(texts):
        (file := folder / "ab"[number % 2] / f"{number}.txt").parent.mkdir(exist_ok=True)
        file.write_bytes(("\ufeff" * bom + text + "\n").encode())
    order = sorted(range(len(texts)), key=lambda number: (number % 2, number))
    if any("\0" in text for text in texts):
        with pytest.raises(DataError, match=r"\d\.txt, line \d holds a NUL character"):
            read_table(folder)
        return
    expected = [texts[number] if bom else texts[number].removeprefix("\ufeff") for number in order]
    assert read_table(folder)["text"].to_pylist() == expected


# -- on to batches -------------------------------------------------------------------------------------------------

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "x", "y", "1", "no", "hi", "##i", "##y", "##b", "##a"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A tokenizer with few pieces, for which most words are [UNK]."""
    return BertTokenizerFast(vocab={piece: number for number, piece in enumerate(PIECES)}, model_max_length=512)


def refusal(data: DataModule) -> str:
    """Set data up, and return the sentence with which it is refused, else nothing."""
    try:
        data.setup()
    except DataError as error:
        return str(error)
    return ""


def labels_in(data: DataModule) -> list[Any]:
    """Return the labels of all validation rows, from the batches."""
    found = {}
    for batch in data.val_dataloader():
        found |= dict(zip(batch["sample_id"].tolist(), batch["labels"].tolist(), strict=True))
    return [found[row] for row in range(len(found))]


def both(folder: Path, kind: str, names: list[str], rows: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Write rows as training and as validation rows; returns where they are, for a data module."""
    for split in ("train", "validation"):
        write(folder / f"{split}.{kind}", names, rows)
    return {"path": folder, "cache_dir": folder / "cache", "batch_size": 3}


@drawn
@given(
    classes=CLASSES,
    texts=st.lists(st.one_of(st.sampled_from(ODD), PLAIN), min_size=1, max_size=8),
    kind=st.sampled_from(["csv", "jsonl", "json", "parquet"]),
    pair=st.booleans(),
    numbers=st.lists(st.integers(0, 9), min_size=8, max_size=8),
)
def test_texts_with_any_labels_become_batches_or_one_error(
    place: Path, tokenizer: Any, classes: list[Any], texts: list[str], kind: str, pair: bool, numbers: list[int]
) -> None:
    """One row, one class, duplicates, labels of every type: all rows, or a sentence that names the file."""
    labels = [classes[number % len(classes)] for number in numbers[: len(texts)]]
    rows = [(text, text[::-1], label) for text, label in zip(texts, labels, strict=True)]
    where = both(emptied(place / "now"), kind, ["one", "two", "kind"], rows)
    data = TextClassification("drawn", ["one", "two"] if pair else "one", "kind", tokenizer=tokenizer, **where)
    said = refusal(data)
    if len(set(labels)) == 1:
        assert said.startswith(f"{where['path']}/train.{kind}, column 'kind' holds only")
        return
    assert not said
    assert data.texts("train") == [text for row in rows for text in row[: 1 + pair]]
    found = labels_in(data)
    assert [str(data.classes[one]) if data.classes else str(one) for one in found] == [str(one) for one in labels]


@drawn
@given(
    values=st.lists(
        st.one_of(st.floats(), st.integers(-(2**70), 2**70), st.sampled_from([None, "1,5", 1e39, -100, -100.0, 5])),
        min_size=1,
        max_size=3,
    ),
    kind=st.sampled_from(["csv", "jsonl"]),
)
def test_numbers_to_predict_are_finite_or_named(place: Path, tokenizer: Any, values: list[Any], kind: str) -> None:
    cells = ["" if kind == "csv" and value is None else value for value in values]
    where = both(emptied(place / "now"), kind, ["text", "score"], [("hi", cell) for cell in cells])
    data = TextClassification("drawn", "text", "score", tokenizer=tokenizer, regression=True, **where)
    said = refusal(data)
    if any(isinstance(v, str | None) or v == -100 or not abs(v) <= np.finfo(np.float32).max for v in values):
        assert said.startswith(f"{where['path']}/train.{kind}, column 'score'")
    elif not any(isinstance(value, int) and abs(value) >= 2**63 for value in values):
        assert not said
        assert np.allclose(labels_in(data), np.array(values, np.float32), rtol=1e-6)


CELLS = st.one_of(
    st.none(),
    st.integers(-2, 3),
    st.floats(),
    TEXTS,
    st.lists(st.one_of(st.none(), PLAIN, st.integers(-1, 3)), max_size=3),
    st.dictionaries(
        st.sampled_from(["text", "answer_start", "odd"]), st.lists(st.one_of(PLAIN, st.integers(-1, 9))), max_size=3
    ),
)


def module_of(name: str, where: dict[str, Any], tokenizer: Any) -> DataModule:
    """Return a data module of a kind over columns `one` to `four`."""
    unlabelled = {"unlabelled": where["path"] / "validation.jsonl", "unlabelled_text": "two"}
    where = where | {"tokenizer": tokenizer}
    rename = {"one": "id", "two": "context", "three": "answers", "four": "question"}
    made: dict[str, Callable[[], DataModule]] = {
        "names": lambda: TextClassification("drawn", "two", "three", **where),
        "pairs": lambda: TextClassification(
            "drawn", ["two", "four"], "three", num_labels=3, drop_unlabelled=True, **where
        ),
        "several": lambda: TextClassification("drawn", "two", "three", num_labels=3, multilabel=True, **where),
        "number": lambda: TextClassification("drawn", "two", "three", regression=True, **where),
        "augmented": lambda: TextClassification("drawn", "two", "three", num_labels=3, augment=[Delete(0.5)], **where),
        "unlabelled": lambda: TextClassification("drawn", "two", "three", num_labels=3, **unlabelled, **where),
        "tags": lambda: SequenceLabelling("drawn", ["O", "B-X"], "two", "three", **where),
        "questions": lambda: QuestionAnswering(
            "drawn", rename=rename, max_length=64, stride=8, max_question_length=16, **where
        ),
        "language": lambda: LanguageModelling("drawn", text="two", **where),
    }
    return made[name]()


@drawn
@given(
    name=st.sampled_from(
        ["names", "pairs", "several", "number", "augmented", "unlabelled", "tags", "questions", "language"]
    ),
    rows=st.lists(st.tuples(st.integers(0, 3), CELLS, CELLS, CELLS), max_size=3),
    missing=st.sampled_from([None, None, None, "two", "three"]),
)
def test_whatever_cells_hold_it_is_batches_or_one_error_that_names_the_file(
    place: Path, tokenizer: Any, name: str, rows: list[tuple[Any, ...]], missing: str | None
) -> None:
    folder = emptied(place / "now")
    columns = ["one", "two", "three", "four"]
    for split in ("train", "validation"):
        records = [{k: v for k, v in zip(columns, row, strict=True) if k != missing} for row in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, records)))
    where = {"path": folder, "cache_dir": folder / "cache", "batch_size": 2}
    said = refusal(data := module_of(name, where, tokenizer))
    assert str(folder) in said if said else sum(len(batch["sample_id"]) for batch in data.val_dataloader()) > 0
    for batch in data.train_dataloader() if not said else ():
        assert len(batch["sample_id"])
