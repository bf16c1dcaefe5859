"""Rows of one's own: files of every format, folders of them, and folders of text files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from kd_lightning.core.errors import DataError
from kd_lightning.data import QuestionAnswering, SequenceLabelling, TextClassification
from kd_lightning.data.readers import find_splits, read_table

ROWS = [("good film, very good", 5), ("bad plot", 1), ("not bad", 3), ("film", 5), ("good", 5), ("1984", 1)] * 4
ROWS = [(f"{text} {number}", stars) for number, (text, stars) in enumerate(ROWS)]


def written(folder: Path, kind: str, rows: list[tuple[Any, Any]] = ROWS, stem: str = "reviews") -> Path:
    """Write rows as the columns `review` and `stars`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{stem}.{kind}"
    records = [{"review": text, "stars": stars} for text, stars in rows]
    if kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(records), file)
    elif kind == "jsonl":
        file.write_text("\n".join(json.dumps(record) for record in records))
    elif kind == "json":
        file.write_text(json.dumps(records))
    elif kind == "csv":
        file.write_text("review,stars\n" + "\n".join(f'"{text}",{stars}' for text, stars in rows))
    else:
        file.write_text("review\tstars\n" + "\n".join(f"{text}\t{stars}" for text, stars in rows))
    return file


def reviews(path: Any, tokenizer: Any, cache: Path, **settings: Any) -> TextClassification:
    settings = {"text": "review", "label": "stars", "cache_dir": cache} | settings
    return TextClassification("mine", path=path, tokenizer=tokenizer, **settings)


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "jsonl", "json"])
def test_every_format_gives_the_same_rows(kind: str, tmp_path: Path, tokenizer: Any) -> None:
    data = reviews(written(tmp_path, kind), tokenizer, tmp_path)
    assert (data.num_labels, data.classes) == (3, ["1", "3", "5"])
    kept = data.texts("train")
    assert data.sizes == {}
    data.setup()
    assert data.sizes == {"train": 21, "validation": 3}  # ⌈0.1 · 24⌉ are held out
    assert sorted(kept + data.texts("validation")) == sorted(text for text, _ in ROWS)
    labels = {text: ["1", "3", "5"].index(str(stars)) for text, stars in ROWS}
    assert [ROWS[row][0] for row in data.row_numbers("validation")] == data.texts("validation")
    found = [int(data.rows("train")[row]["labels"]) for row in range(21)]
    assert found == [labels[text] for text in kept]


def test_what_is_held_out_depends_on_the_texts_alone(tmp_path: Path, tokenizer: Any) -> None:
    first = reviews(written(tmp_path / "a", "csv"), tokenizer, tmp_path)
    turned = [(text, 6 - stars) for text, stars in reversed(ROWS + ROWS[:5])]
    second = reviews(written(tmp_path / "b", "csv", turned), tokenizer, tmp_path, seed=5)
    assert set(first.texts("validation")) == set(second.texts("validation"))
    assert not set(second.texts("validation")) & set(second.texts("train"))
    half = reviews(tmp_path / "a" / "reviews.csv", tokenizer, tmp_path, holdout=0.5)
    assert len(half.texts("validation")) == 12
    assert len({first.fingerprint, second.fingerprint, half.fingerprint}) == 3


def test_files_of_splits_in_a_folder_and_beside_a_file(tmp_path: Path, tokenizer: Any) -> None:
    written(tmp_path / "set", "csv", ROWS[:18], "train")
    written(tmp_path / "set", "jsonl", ROWS[18:22], "validation")
    written(tmp_path / "set", "tsv", ROWS[22:], "test")
    data = reviews(tmp_path / "set", tokenizer, tmp_path)
    data.setup()
    assert data.sizes == {"train": 18, "validation": 4, "test": 2}
    files = {split: tmp_path / "set" / name for split, name in (("path", "train.csv"), ("other", "validation.jsonl"))}
    beside = reviews(files["path"], tokenizer, tmp_path, validation=files["other"])
    assert (len(beside.texts("train")), len(beside.texts("validation"))) == (18, 4)
    named = reviews(tmp_path / "set", tokenizer, tmp_path, splits={"train": "train", "validation": "test"})
    assert len(named.texts("validation")) == 2
    below = reviews("set", tokenizer, tmp_path, root=tmp_path)
    assert below.texts("train") == data.texts("train")


def test_a_folder_of_texts_has_a_folder_per_class(tmp_path: Path, tokenizer: Any) -> None:
    for split, texts in (("train", 6), ("validation", 2)):
        for name in ("pos", "neg"):
            (tmp_path / "whole" / split / name).mkdir(parents=True)
            for number in range(texts):
                (tmp_path / "whole" / split / name / f"{number}.txt").write_text(f"{name} film {number}\n\nnot bad\n")
    settings: dict[str, Any] = {"tokenizer": tokenizer, "cache_dir": tmp_path}
    data = TextClassification("mine", "text", path=tmp_path / "whole", **settings)
    data.setup()
    assert (data.sizes, data.classes) == ({"train": 12, "validation": 4}, ["neg", "pos"])
    assert data.texts("validation")[0] == "neg film 0\n\nnot bad"
    alone = TextClassification("mine", "text", path=tmp_path / "whole" / "train", **settings)
    assert (len(alone.texts("train")), len(alone.texts("validation"))) == (10, 2)
    before = data.fingerprint
    (tmp_path / "whole" / "train" / "pos" / "0.txt").write_text("another film")
    assert TextClassification("mine", "text", path=tmp_path / "whole", **settings).fingerprint != before


def test_tags_and_questions_come_from_files_too(tmp_path: Path, tokenizer: Any) -> None:
    sentences = [{"tokens": ["good", "film", str(row)], "ner_tags": ["O", "B-X", "O"]} for row in range(10)]
    (tmp_path / "tags.jsonl").write_text("\n".join(map(json.dumps, sentences)))
    labels = ["O", "B-X"]
    tags = SequenceLabelling("mine", labels, path=tmp_path / "tags.jsonl", tokenizer=tokenizer, cache_dir=tmp_path)
    tags.setup()
    assert tags.sizes == {"train": 9, "validation": 1}
    answers = {"text": ["film"], "answer_start": [5]}
    asked = [
        {"id": f"{row}{turn}", "context": f"good film {row}", "question": "film", "answers": answers}
        for row in range(10)
        for turn in range(2)
    ]
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    data = QuestionAnswering("mine", path=tmp_path / "asked.json", holdout=0.2, max_length=80, stride=4)
    train, validation = (data.questions(split) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (16, 4)
    assert not set(train.contexts) & set(validation.contexts)  # questions about one text are on one side


def test_extra_rows_come_from_files_of_any_format(tmp_path: Path, tokenizer: Any) -> None:
    more = written(tmp_path / "more", "tsv", [("very good", 5), ("very bad", 1)])
    data = reviews(written(tmp_path, "csv"), tokenizer, tmp_path, extra=[str(more)])
    assert data.texts("train")[-2:] == ["very good", "very bad"]
    with pytest.raises(DataError, match=r"There is no file or folder .*Closest: .*reviews\.tsv"):
        reviews(written(tmp_path, "csv"), tokenizer, tmp_path, extra=[str(more.with_name("review.tsv"))])


@pytest.mark.parametrize(
    ("labels", "count", "classes", "numbers"),
    [
        ([0, 1, 2, 1], 3, None, [0, 1, 2, 1]),
        ([3, 1, 2, 1], 3, ["1", "2", "3"], [2, 0, 1, 0]),
        (["no", "yes", "no", "maybe"], 3, ["maybe", "no", "yes"], [1, 2, 1, 0]),
        ([1.0, 0.0, None, 1.0], 2, None, [1, 0, 1]),
        ([True, False, True, None], 2, ["False", "True"], [1, 0, 1]),
    ],
)
def test_classes_are_those_of_the_training_rows(
    labels: list[Any], count: int, classes: Any, numbers: list[int], tmp_path: Path, tokenizer: Any
) -> None:
    rows = [(f"good film {row}", label) for row, label in enumerate(labels)]
    path = written(tmp_path, "parquet", rows, "train")
    written(tmp_path, "parquet", rows[:1], "validation")
    data = reviews(tmp_path, tokenizer, tmp_path, drop_unlabelled=True, limit=4)
    assert (data.num_labels, data.classes) == (count, classes)
    assert [int(data.rows("train")[row]["labels"]) for row in range(len(numbers))] == numbers
    given = reviews(path.parent, tokenizer, tmp_path, drop_unlabelled=True, limit=4, num_labels=count)
    assert (given.fingerprint == data.fingerprint) is (classes is None)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([1.5, 2.0], r"holds 1\.5, and classes are names or whole numbers.*data\.regression=true task=regression"),
        ([[1], [2]], r"holds \[1\], and classes are"),
        ([1, 1], "holds only 1: there is nothing to tell apart"),
        ([None, None], "holds no label: there is nothing"),
    ],
)
def test_labels_that_are_none_are_named(labels: list[Any], words: str, tmp_path: Path, tokenizer: Any) -> None:
    path = written(tmp_path, "parquet", [(f"film {row}", label) for row, label in enumerate(labels)])
    with pytest.raises(DataError, match=rf"reviews\.parquet, column 'stars' {words}"):
        reviews(path, tokenizer, tmp_path).setup()


def test_a_class_that_only_the_validation_rows_have_is_named(tmp_path: Path, tokenizer: Any) -> None:
    written(tmp_path, "csv", [("good", 5), ("bad", 1)], "train")
    written(tmp_path, "csv", [("good", 5), ("not bad", 4)], "validation")
    with pytest.raises(DataError, match=r"validation\.csv, column 'stars', row 1 holds '4' .* Choices: 1, 5\."):
        reviews(tmp_path, tokenizer, tmp_path).setup()


def test_columns_of_csv_are_numbers_where_all_values_are(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,whole,part,name,empty\n1,2,0.5,x,\n2,,3,4,\n")
    table = read_table(tmp_path / "a.csv", texts=["text"])
    assert table.to_pydict() == {
        "text": ["1", "2"], "whole": [2, None], "part": [0.5, 3.0], "name": ["x", "4"], "empty": [None, None]
    }  # fmt: skip


def test_quotes_and_line_ends_within_csv_and_quotes_in_tsv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,label\n"one ""two"",\nthree",1\n')
    (tmp_path / "a.tsv").write_text('text\tlabel\n"one\t1\ntwo"\t0\n')
    assert read_table(tmp_path / "a.csv").to_pylist() == [{"text": 'one "two",\nthree', "label": 1}]
    assert read_table(tmp_path / "a.tsv")["text"].to_pylist() == ['"one', 'two"']


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "a.csv is empty"),
        ("a.csv", b"review,stars\n", "a.csv has no rows"),
        ("a.csv", "review,stars\ngr\u00fcn,1\n".encode("latin1"), "a.csv is not UTF-8 text; save it as UTF-8"),
        ("a.csv", b"review,stars\na,1,2\n", r"a.csv is not a readable CSV file \(.*Expected 2 columns, got 3"),
        ("a.csv", b"reviews,stars\na,1\n", "a.csv has no column 'review'. Closest: reviews"),
        ("a.csv", b"review,review\na,1\n", "a.csv has more than one column 'review'"),
        ("a.jsonl", b'{"review": "a"\n', "a.jsonl, line 1 is no JSON"),
        (
            "a.jsonl",
            b'{"review": "a", "stars": 1}\n{"review": "b", "stars": ""}',
            "column 'stars' holds values of sev",
        ),
        ("a.jsonl", b'{"review": 5, "stars": 1}\n{"review": 6, "stars": 2}', "'review', row 0 holds 5 where a text"),
        ("a.parquet", b"PAR1", "a.parquet is not a readable Parquet file"),
        ("a.xlsx", b"x", r"a.xlsx is of no kind that can be read as a table"),
    ],
)
def test_files_that_cannot_be_read_are_named(
    name: str, content: bytes, words: str, tmp_path: Path, tokenizer: Any
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        reviews(tmp_path / name, tokenizer, tmp_path / "cache").setup()


def test_the_format_may_be_given_where_the_suffix_is_another(tmp_path: Path, tokenizer: Any) -> None:
    file = written(tmp_path, "csv").rename(tmp_path / "reviews.data")
    assert len(reviews(file, tokenizer, tmp_path, format="csv").texts("train")) == 21


def test_places_that_cannot_be_used_say_what_is_near(tmp_path: Path, tokenizer: Any) -> None:
    file = written(tmp_path / "set", "csv")
    with pytest.raises(DataError, match=r"There is no file or folder .*review\.csv.*Closest: .*reviews\.csv"):
        reviews(file.with_name("review.csv"), tokenizer, tmp_path)
    with pytest.raises(DataError, match=r"set has no train\.csv, \.tsv, .*nor folders of text files"):
        reviews(tmp_path / "set", tokenizer, tmp_path)
    for kind in ("csv", "tsv"):
        written(tmp_path / "two", kind, stem="train")
    with pytest.raises(DataError, match=r"two has train\.csv and train\.tsv: type data\.format=NAME"):
        reviews(tmp_path / "two", tokenizer, tmp_path)
    assert find_splits(tmp_path / "two", {"train": "train"}, "tsv") == {"train": tmp_path / "two" / "train.tsv"}
    splits = {"train": "train", "validation": "dev"}
    with pytest.raises(DataError, match=r"has no file dev\.\* for the validation split"):
        reviews(tmp_path / "two", tokenizer, tmp_path, format="csv", splits=splits)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"holdout": 1.0}, "holdout is a share of the training rows, above 0 and below 1; got 1.0"),
    ],
)
def test_settings_that_contradict_each_other(
    settings: dict[str, Any], words: str, tmp_path: Path, tokenizer: Any
) -> None:
    file = written(tmp_path, "csv")
    settings = {key: file if value == "here" else value for key, value in settings.items()}
    with pytest.raises(DataError, match=words):
        reviews(file, tokenizer, tmp_path, **settings)
    with pytest.raises(DataError, match=r"it goes with data\.path"):
        TextClassification("mine", "review", root=tmp_path, validation=file)


def test_too_few_rows_to_hold_some_out(tmp_path: Path, tokenizer: Any) -> None:
    file = written(tmp_path, "csv", [("good", 1), ("good", 0)])
    with pytest.raises(DataError, match=r"reviews\.csv has too few different rows to hold out 0\.1 of them"):
        reviews(file, tokenizer, tmp_path).setup()
