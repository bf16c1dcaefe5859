from __future__ import annotations

import logging

import datasets
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from kd_lightning.core.errors import DataError
from kd_lightning.data import QuestionAnswering, SequenceLabelling, TextClassification
from kd_lightning.data.sources import Source, extra_source


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


def test_that_another_split_is_used_instead_is_logged_once(root, caplog):
    with caplog.at_level(logging.WARNING):
        extra_source("whole", root)
        assert not caplog.text
        for _ in range(6):
            extra_source("rest", root)
    assert caplog.text.count("has no train.parquet, so its validation.parquet is trained on") == 1


def test_a_file_may_be_anywhere(root, monkeypatch):
    monkeypatch.chdir(root)
    for name in (f"{root}/other/test.parquet", "other/test.parquet"):
        assert extra_source(name, "/nowhere").table()["text"].to_pylist() == ["other/test"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wole", "There is no data set 'wole' in .*Closest: whole"),
        ("other", "There is no train.parquet in .*Choices: test. Type data.extra=.other/SPLIT. to take another"),
        ("rest/tst", "There is no tst.parquet in .*Closest: test"),
    ],
)
def test_what_is_missing_is_an_error(root, name, message):
    with pytest.raises(DataError, match=message):
        extra_source(name, root).table()


def test_on_the_hub_a_name_is_looked_up():
    hubs = {"drcd": {"hub": "clue/clue", "subset": "drcd"}, "cmrc2018": {"hub": "hfl/cmrc2018"}}
    assert extra_source("drcd", hubs=hubs) == Source("drcd", "train", None, "clue/clue", "drcd", "extra")
    assert extra_source("cmrc2018/test", hubs=hubs) == Source("cmrc2018", "test", None, "hfl/cmrc2018", None, "extra")
    with pytest.raises(DataError, match=r"'drdc' is: give data.root=DIR.*Closest: drcd"):
        extra_source("drdc", hubs=hubs)


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


# -- labels of their own ---------------------------------------------------------------------------------------------


@pytest.fixture
def settings(root, make_tokenizer):
    return {"tokenizer": make_tokenizer(), "root": root, "cache_dir": root / "cache"}


def keep(file, kind, **columns):
    """Write a file as `datasets` does, with what the last column's numbers are called."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = datasets.Dataset.from_dict(columns).cast_column(list(columns)[-1], kind)
    rows.to_parquet(file)


def films(root, order, labels):
    """The data set with classes no and yes; names of its own for them if wanted."""
    for split in ("train", "validation"):
        kind = datasets.ClassLabel(names=order)
        keep(root / "films" / f"{split}.parquet", kind, sentence=["good film", "bad"], label=labels)


@pytest.mark.parametrize("order", [["no", "yes"], ["yes", "no"]])
@pytest.mark.parametrize(
    ("names", "extra"), [(["yes", "no"], [0, 1]), (["no", "yes"], [1, 0]), (None, ["yes", "no"]), (None, [1.0, 0.0])]
)
def test_each_source_is_read_by_its_own_order_of_classes(root, write_rows, settings, order, names, extra):
    films(root, order, [order.index("yes"), order.index("no")])
    columns = {"sentence": ["very good", "very bad"], "label": extra}
    if names is None:
        write_rows(root / "more" / "train.parquet", **columns)
    else:
        keep(root / "more" / "train.parquet", datasets.ClassLabel(names=names), **columns)
    data = TextClassification("films", "sentence", labels=["no", "yes"], extra="more", **settings)
    assert data.rows("train").values["labels"].tolist() == [1, 0, 1, 0]
    assert data.rows("validation").values["labels"].tolist() == [1, 0]


def test_classes_without_given_names_have_those_of_the_data_set(root, settings):
    films(root, ["no", "yes"], [1, 0])
    keep(
        root / "more" / "train.parquet",
        datasets.ClassLabel(names=["yes", "no"]),
        sentence=["good", "bad"],
        label=[0, 1],
    )
    data = TextClassification("films", "sentence", extra="more", **settings)
    assert data.rows("train").values["labels"].tolist() == [1, 0, 1, 0]


def test_several_labels_per_row_are_read_by_their_order_too(root, settings):
    for split, order in (("train", ["a", "b", "c"]), ("validation", ["a", "b", "c"]), ("more", ["c", "a", "b"])):
        rows = [[order.index(name) for name in names] for names in (["a", "b"], ["c"], [])]
        kind = datasets.Sequence(datasets.ClassLabel(names=order))
        keep(root / "moods" / f"{split}.parquet", kind, sentence=["good", "bad", "film"], labels=rows)
    given = {"label": "labels", "labels": ["a", "b", "c"], "multilabel": True, "extra": "moods/more"}
    data = TextClassification("moods", "sentence", **given, **settings)
    assert data.rows("train").values["labels"].tolist() == 2 * [[1, 1, 0], [0, 0, 1], [0, 0, 0]]


def test_tags_are_read_by_their_own_order(root, settings):
    tags = ["O", "B-X", "I-X"]
    for name, order in (("seen", tags), ("more", ["I-X", "B-X", "O"])):
        numbers = [[order.index(tag) for tag in ("B-X", "I-X", "O")]]
        for split in ("train", "validation"):
            kind = datasets.Sequence(datasets.ClassLabel(names=order))
            keep(root / name / f"{split}.parquet", kind, tokens=[["good", "film", "bad"]], ner_tags=numbers)
    data = SequenceLabelling("seen", tags, extra="more", **settings)
    assert data.sentences("train").tags == [[1, 2, 0], [1, 2, 0]]


@pytest.mark.parametrize("labels", [None, pa.array([None, None]), pa.array(["-", None]), pa.array([-1, None])])
def test_extra_rows_without_labels_are_for_the_teacher(root, write_rows, settings, labels):
    films(root, ["no", "yes"], [1, 0])
    write_rows(
        root / "more" / "train.parquet",
        sentence=["very good", "very bad"],
        **({} if labels is None else {"label": labels}),
    )
    for drop in (False, True):
        data = TextClassification("films", "sentence", drop_unlabelled=drop, extra="more", **settings)
        assert data.rows("train").values["labels"].tolist() == [1, 0, -100, -100]


@pytest.mark.parametrize(
    ("given", "columns", "expected"),
    [
        ({"regression": True}, {"label": [-1.0, None]}, [-1.0, -100.0]),
        ({"multilabel": True}, {"label": [[1], None]}, [[0.0, 1.0], [-100.0, -100.0]]),
        ({"multilabel": True, "label": ["a", "b"]}, {"a": [0, None], "b": [1, 1]}, [[0.0, 1.0], [-100.0, -100.0]]),
        ({"multilabel": True, "label": ["a", "b"]}, {}, [[-100.0, -100.0], [-100.0, -100.0]]),
    ],
)
def test_numbers_and_several_labels_may_be_missing_too(root, write_rows, settings, given, columns, expected):
    own = {"regression": {"label": [2, 3]}, "multilabel": {"label": [[0], [1]], "a": [1, 0], "b": [0, 0]}}[
        next(iter(given))
    ]
    for split in ("train", "validation"):
        write_rows(root / "films" / f"{split}.parquet", sentence=["good", "bad"], **own)
    write_rows(root / "more" / "train.parquet", sentence=["very good", "very bad"], **columns)
    data = TextClassification("films", "sentence", extra="more", **given, **settings)
    assert data.rows("train").values["labels"][2:].tolist() == expected
    assert data.rows("train").values["labels"].dtype == np.float32


@pytest.mark.parametrize("tags", [None, pa.array([None, ["B-X"]], pa.list_(pa.string()))])
def test_extra_sentences_without_tags_are_for_the_teacher(root, write_rows, settings, tags):
    for split in ("train", "validation"):
        write_rows(root / "seen" / f"{split}.parquet", tokens=[["good", "film"]], ner_tags=[["O", "B-X"]])
    columns = {} if tags is None else {"ner_tags": tags}
    write_rows(root / "more" / "train.parquet", tokens=[["very", "bad"], ["plot"]], **columns)
    data = SequenceLabelling("seen", ["O", "B-X"], extra="more", **settings)
    assert data.sentences("train").tags == [[0, 1], [-100, -100], [-100 if tags is None else 1]]
    assert data.rows("train")[1]["logits_mask"].tolist() == [0, 1, 1, 0]


def test_an_error_names_the_file_and_the_row(root, write_rows, settings):
    films(root, ["no", "yes"], [1, 0])
    write_rows(root / "more" / "train.parquet", sentence=["good", "bad", "film"], label=[1, None, 7])
    with pytest.raises(DataError, match=r"more/train.parquet, column 'label', row 2 holds 7"):
        TextClassification("films", "sentence", extra="more", **settings).setup()
    write_rows(root / "more" / "train.parquet", sentence=["good", "bad"], a=[1, 0])
    given = {"label": ["a", "b"], "multilabel": True, "extra": "more"}
    for split in ("train", "validation"):
        write_rows(root / "films" / f"{split}.parquet", sentence=["good"], a=[0], b=[1])
    with pytest.raises(DataError, match=r"more/train.parquet has no column 'b'"):
        TextClassification("films", "sentence", **given, **settings).setup()
    for split in ("train", "validation"):
        write_rows(root / "seen" / f"{split}.parquet", tokens=[["good", "film"]], ner_tags=[["O", "B-X"]])
    write_rows(root / "more" / "train.parquet", tokens=[["good"], ["bad"]], ner_tags=[["O"], ["B-Y"]])
    with pytest.raises(DataError, match=r"more/train.parquet, column 'ner_tags', row 1 has the tag 'B-Y'"):
        SequenceLabelling("seen", ["O", "B-X"], extra="more", **settings).setup()


def test_an_error_in_an_answer_names_the_file(root, settings):
    row = {"id": "1", "question": "good ?", "context": "good film", "answers": {"text": ["film"], "answer_start": [5]}}
    for name, answers in (
        ("reads/train", row["answers"]),
        ("reads/validation", row["answers"]),
        ("more/train", "film"),
    ):
        (root / name).parent.mkdir(exist_ok=True)
        parquet.write_table(pa.Table.from_pylist([row | {"answers": answers}]), root / f"{name}.parquet")
    with pytest.raises(DataError, match=r"more/train.parquet, column 'answers', row 0 holds 'film'"):
        QuestionAnswering("reads", extra="more", **settings).questions("train")


# -- what is evaluated -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", ["whole/validation", "rest", "{root}/rest/../rest/validation.parquet", "rest/test"])
def test_what_is_evaluated_is_not_trained_on(root, extra):
    name = extra.partition("/")[0] if "{" not in extra else "rest"
    splits = {"train": "train", "validation": "validation", "test": "test"}
    with pytest.raises(DataError, match=r"(validation|test).parquet, from which the (validation|test) split is read"):
        TextClassification(name, "text", root=root, splits=splits, extra=extra.format(root=root))
    assert TextClassification("films", "text", root=root, splits=splits, extra=extra.format(root=root)).extra


def test_on_the_hub_and_of_a_share_of_the_training_split_too():
    hubs = {"reads": {"hub": "some/reads", "subset": None}}
    given = {"hub": "some/reads", "extra_hubs": hubs}
    with pytest.raises(DataError, match=r"some/reads:validation, from which the validation split is read"):
        QuestionAnswering("reads", extra="reads/validation", **given)
    with pytest.raises(DataError, match=r"some/reads:train, from which the selection split is read"):
        QuestionAnswering("reads", extra="reads", holdout=0.1, **given)
    assert len(QuestionAnswering("reads", extra="reads/test", **given).extra) == 1
