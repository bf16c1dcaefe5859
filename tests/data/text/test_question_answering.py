from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import parquet

from kd_lightning.core.errors import DataError
from kd_lightning.data import Mask, QuestionAnswering

from ...reading import asked, library, reader, write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return library(tmp_path / "data")


def reads(root: Path, kind: str = "bert", **settings: Any) -> QuestionAnswering:
    settings = {"max_length": 24, "stride": 5, "max_question_length": 8, "batch_size": 4} | settings
    settings = {"tokenizer": reader(kind), "cache_dir": root.parent / "cache"} | settings
    return QuestionAnswering("reads", root=root, **settings)


def answer_of(data: QuestionAnswering, batch: Any, row: int, split: str) -> str:
    """The text between a batch's start and end positions."""
    before = int(batch["attention_mask"][row].argmax())
    sample = int(batch["sample_id"][row])
    rows, asked = data.rows(split), data.questions(split)
    first = rows.offsets[sample] - before
    begin = rows.notes["char_start"][first + int(batch["start_positions"][row])]
    end = rows.notes["char_end"][first + int(batch["end_positions"][row])]
    return asked.contexts[rows.notes["example"][sample]][begin:end]


@pytest.mark.parametrize("kind", ["bert", "left", "roberta", "xlnet", "bare"])
def test_batches_say_where_answers_are_whatever_the_tokenizer(root, kind):
    data = reads(root, kind)
    data.setup("fit")
    texts = {i: row["answers"]["text"][0] for i, row in enumerate(asked(20, 0))}
    words = {i: "".join(c for c in text if not c.isspace()) for i, text in texts.items()}
    found = 0
    for batch in data.train_dataloader():
        assert set(batch) >= {"input_ids", "attention_mask", "logits_mask", "start_positions", "end_positions"}
        assert (batch["logits_mask"] <= batch["attention_mask"]).all()
        for row, (start, end) in enumerate(zip(batch["start_positions"], batch["end_positions"], strict=True)):
            if start < 0:
                continue
            assert start <= end
            assert batch["logits_mask"][row, start]
            assert batch["logits_mask"][row, end]
            if batch["input_ids"][row, start] == 2 or (kind == "bare" and start == 0):
                assert start == end  # not in this row
                continue
            found += 1
            text = answer_of(data, batch, row, "train")
            assert "".join(text.split()).strip("\u200b") in context_words(data, batch, row)
            assert words[example(data, batch, row)].strip("\u200b") in "".join(text.split())
    assert found >= 10


def example(data: QuestionAnswering, batch: Any, row: int) -> int:
    return int(data.rows("train").notes["example"][int(batch["sample_id"][row])])


def context_words(data: QuestionAnswering, batch: Any, row: int) -> str:
    return "".join(data.questions("train").contexts[example(data, batch, row)].split())


def test_rows_are_numbered_and_evaluation_has_each_once(root):
    data = reads(root)
    data.setup()
    seen = sorted(i for batch in data.val_dataloader() for i in batch["sample_id"].tolist())
    assert seen == list(range(data.sizes["validation"]))
    assert data.sizes["validation"] > 11  # questions
    assert not any("split" in batch for batch in data.val_dataloader())


def test_answers_of_unknown_place_are_evaluated_and_not_trained_on(tmp_path, caplog):
    rows = asked(6)
    for row in rows[:3]:
        row["answers"]["answer_start"] = [-1] * len(row["answers"]["text"])
    for row in rows:
        row["answer_start_exact"] = [row is not rows[3]] * len(row["answers"]["text"])
    for split in ("train", "validation"):
        write(tmp_path / "data" / "reads" / f"{split}.parquet", rows)
    data = reads(tmp_path / "data")
    data.setup()
    made = data.rows("train")
    unknown = {
        int(e) for e, start in zip(made.notes["example"], made.values["start_positions"], strict=True) if start == -100
    }
    assert unknown == {0, 1, 2, 3}
    assert "4 of 6 answers are not where 'answer_start' says" in caplog.text
    assert data.questions("validation").answers == [row["answers"]["text"] for row in rows]


def test_a_teacher_learns_nothing_from_rows_without_answers_and_a_student_all(tmp_path):
    from kd_lightning import Match, Objective, Term
    from kd_lightning.losses import HardLabel, SoftTarget

    rows = [{name: value for name, value in row.items() if name != "answers"} for row in asked(4)]
    write(tmp_path / "more.parquet", rows)
    data = reads(library(tmp_path / "data"), extra=[str(tmp_path / "more.parquet")], batch_size=100)
    batch = next(iter(data.train_dataloader()))
    torch.manual_seed(0)
    shape = batch["input_ids"].shape
    student = {name: torch.randn(shape, requires_grad=True) for name in ("start_logits", "end_logits")}
    teacher = {name: torch.randn(shape) for name in student}
    both = Match(tuple(student), ("start_positions", "end_positions")), Match(tuple(student), tuple(student))
    unlabelled = batch["start_positions"] == -100
    assert 4 <= int(unlabelled.sum()) < len(unlabelled)
    for match, loss, rows_moved in ((both[0], HardLabel(), ~unlabelled), (both[1], SoftTarget(), unlabelled | True)):
        total = Objective({"a": Term(match, loss)})(student, teacher, batch).total
        for name, moved in zip(student, torch.autograd.grad(total, list(student.values())), strict=True):
            assert (moved.abs().sum(1) > 0).tolist() == rows_moved.tolist(), name
            assert not moved[batch["logits_mask"] == 0].any()


def test_extra_data_comes_behind_the_training_rows_and_nowhere_else(root):
    write(root / "more" / "train.parquet", asked(7, seed=5))
    alone, both = reads(root), reads(root, extra="more")
    alone.setup()
    both.setup()
    assert both.sizes["validation"] == alone.sizes["validation"]
    assert both.questions("train").contexts[:20] == alone.questions("train").contexts
    assert both.questions("train").contexts[20:] == [row["context"] for row in asked(7, seed=5)]
    first = alone.sizes["train"]
    assert both.rows("train").offsets[: first + 1].tolist() == alone.rows("train").offsets.tolist()
    assert int(both.rows("train").notes["example"][-1]) == 26
    assert set(both.texts()) > set(alone.texts())


def test_extra_data_belongs_to_the_fingerprint(root):
    write(root / "more" / "train.parquet", asked(7, seed=5))
    before, with_more = reads(root).fingerprint, reads(root, extra=["more"]).fingerprint
    write(root / "more" / "train.parquet", asked(7, seed=6))
    assert len({before, with_more, reads(root, extra=["more"]).fingerprint}) == 3
    assert reads(root).fingerprint == before


@pytest.mark.parametrize(
    "change", [{"stride": 4}, {"max_length": 22}, {"max_question_length": 7}, {"limit": 5}, {"holdout": 0.4}]
)
def test_every_setting_that_shapes_rows_makes_new_ones(root, change):
    assert reads(root).fingerprint != reads(root, **change).fingerprint


def test_limits_count_questions_of_each_source(root):
    write(root / "more" / "train.parquet", asked(7, seed=5))
    data = reads(root, extra="more", limit=3)
    assert (len(data.questions("train")), len(data.questions("validation"))) == (6, 3)


def test_titles_are_held_out_whole(root):
    data = reads(root, holdout=0.4)
    table = parquet.read_table(root / "reads" / "train.parquet").to_pylist()
    title = {row["id"]: row["title"] for row in table}
    train, selection = ({title[i] for i in data.questions(split).ids} for split in ("train", "selection"))
    assert (len(train), len(selection)) == (3, 2)
    assert not train & selection
    assert sorted(data.questions("train").ids + data.questions("selection").ids) == sorted(title)


def test_a_data_set_without_a_training_split_is_an_error_with_what_to_type(tmp_path):
    for split in ("validation", "test"):
        write(tmp_path / "reads" / f"{split}.parquet", asked(5))
    with pytest.raises(DataError, match=r"data\.splits\.train=validation data\.splits\.validation=test"):
        reads(tmp_path).setup()
    data = reads(tmp_path, splits={"train": "validation", "validation": "test"})
    data.setup()
    assert len(data.questions("train")) == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"holdout": 1.5}, "holdout is a share of the training rows"),
        ({"n_best": 0}, "n_best must be at least 1"),
        ({"stride": 16}, r"leave 16 for the context, of which stride=16 overlap"),  # 24 less 8 of the question
        ({"max_question_length": 24}, r"leave 0 for the context"),
        ({"max_answer_length": 0}, "max_answer_length must be at least 1"),
        ({"augment": [Mask(0.1)]}, "leave out `augment`"),
        ({"unlabelled": "texts"}, r"no questions to answer: leave out `unlabelled`.*data.extra="),
    ],
)
def test_settings_out_of_range_are_errors(root, settings, message):
    with pytest.raises(DataError, match=message):
        reads(root, **settings)


def test_a_tokenizer_for_the_teacher_alone_is_an_error(root):
    data = reads(root)
    data.teacher_tokenizer = reader("roberta")
    with pytest.raises(DataError, match=r"different vocabularies.*student and teachers, of all tasks, with"):
        data.setup()
