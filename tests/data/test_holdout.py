"""`holdout`: training rows that are held out to choose on, apart from the rows that are reported."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from kd_lightning.core.errors import DataError
from kd_lightning.data import (
    DataModule,
    LanguageModelling,
    MultiTask,
    QuestionAnswering,
    RowDataModule,
    SequenceLabelling,
    SyntheticSentiment,
    TextClassification,
    build_tokenizer,
)

from ..reading import asked, library, reader, write

Maker = Callable[..., Any]
TEXTS = [f"film {row % 35}" for row in range(40)]  # five of them twice


@pytest.fixture
def make(tmp_path: Path, tokenizer: Any, write_rows: Any) -> dict[str, Maker]:
    """Data modules of every kind by name, of data sets with 40 training rows and a validation split."""
    root = library(tmp_path)  # questions: 20 of five titles
    for split, texts in (("train", TEXTS), ("validation", ["plot 1", "plot 2"]), ("test", ["very good"] * 3)):
        write_rows(tmp_path / "films" / f"{split}.parquet", text=texts, label=[i % 2 for i in range(len(texts))])
        words, tags = [text.split() for text in texts], [["O", "O"] for _ in texts]
        write_rows(tmp_path / "tags" / f"{split}.parquet", tokens=words, ner_tags=tags)
        (tmp_path / "lines").mkdir(exist_ok=True)
        (tmp_path / "lines" / f"{split}.txt").write_text("\n\n".join(texts))
    given: dict[str, Any] = {"root": root, "tokenizer": tokenizer, "cache_dir": tmp_path / "cache"}
    masks = build_tokenizer(TEXTS)
    return {
        "texts": lambda **own: TextClassification("films", "text", **given | own),
        "tags": lambda **own: SequenceLabelling("tags", ["O", "B-X"], **given | own),
        "questions": lambda **own: QuestionAnswering("reads", **given | {"tokenizer": reader()} | own),
        "lines": lambda **own: LanguageModelling(
            **given | {"path": "lines", "tokenizer": masks, "max_length": 12} | own
        ),
        "synthetic": lambda **own: SyntheticSentiment(40, 10, **own),
    }


def content(data: Any, split: str) -> list[str]:
    """Return what tells rows apart: texts, or of questions, which may be alike, their ids."""
    return data.questions(split).ids if isinstance(data, QuestionAnswering) else data.texts(split)


KINDS = ["texts", "tags", "questions", "lines", "synthetic"]


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_rows_are_not_trained_on_and_none_is_lost(make: dict[str, Maker], kind: str) -> None:
    whole, data = make[kind](), make[kind](holdout=0.25)
    assert list(whole.available_splits) == ["train", "validation"]
    assert sorted(data.available_splits) == ["selection", "train", "validation"]
    train, selection = content(data, "train"), content(data, "selection")
    assert train
    assert selection
    assert not set(train) & set(selection)
    assert Counter(train + selection) == Counter(content(whole, "train"))
    assert content(data, "validation") == content(whole, "validation")
    data.setup()
    assert len(data.train_rows) == data.sizes["train"]
    assert data.fingerprint != whole.fingerprint != make[kind](holdout=0.5).fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_are_chosen_on_them_and_validation_is_reported(make: dict[str, Maker], kind: str) -> None:
    data = make[kind](holdout=0.25)
    assert (data.selection_split, data.report_split, data.other_splits) == ("selection", "validation", [])
    data.setup()
    for loader, split in ((data.val_dataloader(), "selection"), (data.eval_loader("validation"), "validation")):
        batches = list(loader)
        assert sorted(int(i) for batch in batches for i in batch["sample_id"]) == list(range(data.sizes[split]))
        assert {batch.get("split", "validation") for batch in batches} == {split}
    plain = make[kind]()
    assert (plain.selection_split, plain.report_split) == ("validation", "validation")


def test_which_rows_is_decided_by_hashes_of_their_texts(make: dict[str, Maker]) -> None:
    keys = sorted({repr((text,)) for text in TEXTS}, key=lambda key: hashlib.sha256(key.encode()).hexdigest())
    held = set(keys[: math.ceil(0.25 * 35)])
    for seed in (0, 7):
        data = make["texts"](holdout=0.25, seed=seed)
        assert data.texts("selection") == [text for text in TEXTS if repr((text,)) in held]
        assert data.texts("train") == [text for text in TEXTS if repr((text,)) not in held]


def test_test_rows_are_reported_where_there_is_no_validation(make: dict[str, Maker]) -> None:
    data = make["texts"](holdout=0.25, splits={"train": "train", "test": "test"})
    assert (data.selection_split, data.report_split, data.other_splits) == ("selection", "test", [])
    same = make["texts"](holdout=0.25, splits={"train": "train", "validation": "train", "test": "test"})
    assert sorted(same.available_splits) == ["selection", "test", "train"]  # no training row is reported
    both = make["texts"](holdout=0.25, splits={"train": "train", "validation": "validation", "test": "test"})
    assert (both.report_split, both.other_splits) == ("validation", ["test"])


def test_rows_that_are_alone_serve_for_both_which_the_log_says(
    make: dict[str, Maker], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    same = {"train": "train", "validation": "train"}
    for data, share in (
        (make["texts"](holdout=0.25, splits=same), "0.25 of the training rows"),
        (make["lines"](path="lines/train.txt", holdout=0.3), "0.3 of the documents"),
    ):
        data.setup()
        assert list(data.available_splits) == ["train", "validation"]
        assert data.selection_split == data.report_split == "validation"
        assert not set(data.texts("train")) & set(data.texts("validation"))
        assert f"{share} are held out: checkpoints are chosen on them, and scores are theirs" in caplog.text


def test_a_file_to_validate_on_is_reported(tmp_path: Path, tokenizer: Any) -> None:
    for name, texts in (("a", TEXTS), ("b", ["plot 1", "plot 2"])):
        (tmp_path / f"{name}.jsonl").write_text(
            "\n".join(json.dumps({"text": text, "label": row % 2}) for row, text in enumerate(texts))
        )
    files: Any = {"path": tmp_path / "a.jsonl", "validation": tmp_path / "b.jsonl"}
    data = TextClassification("mine", "text", tokenizer=tokenizer, cache_dir=tmp_path, holdout=0.2, **files)
    data.setup()
    assert data.texts("validation") == ["plot 1", "plot 2"]
    assert sorted(data.texts("train") + data.texts("selection")) == sorted(TEXTS)


def test_questions_need_no_titles(make: dict[str, Maker], tmp_path: Path) -> None:
    for split in ("train", "validation"):
        rows = [{name: value for name, value in row.items() if name != "title"} for row in asked(20, 1)]
        write(tmp_path / "reads" / f"{split}.parquet", rows)
    bare = make["questions"](holdout=0.4)
    assert len(bare.questions("train").ids) + len(bare.questions("selection").ids) == 20


def test_numbers_of_rows_are_their_lines_whatever_is_left_out(make: dict[str, Maker], write_rows: Any) -> None:
    labels = [row % 3 - 1 for row in range(40)]  # a third has none
    plain = make["texts"]()
    write_rows(Path(plain.root) / "films" / "train.parquet", text=TEXTS, label=labels)
    for limit in (None, 12):
        data = make["texts"](holdout=0.5, drop_unlabelled=True, num_labels=2, limit=limit)
        for split in ("train", "selection"):
            lines = data.row_numbers(split)
            assert [TEXTS[line] for line in lines] == data.texts(split)
            assert all(labels[line] >= 0 for line in lines)
        assert make["texts"](holdout=0.5).row_numbers("validation").tolist() == [0, 1]
    few = make["texts"](holdout=0.5, limit=12)  # rows are held out of the first twelve
    parts = [few.row_numbers(split).tolist() for split in ("train", "selection")]
    assert sorted(parts[0] + parts[1]) == list(range(12))
    assert min(map(len, parts)) > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0, 1.0, -0.1, "much"])
def test_a_share_that_is_none_is_an_error(make: dict[str, Maker], kind: str, share: Any) -> None:
    with pytest.raises(DataError, match=r"holdout is a share of the \w+( rows)?, above 0 and below 1; got"):
        make[kind](holdout=share)


def test_nothing_left_to_train_on_is_an_error(make: dict[str, Maker]) -> None:
    with pytest.raises(DataError, match=r"too few different rows to hold out 0\.99 of them: leave data\.holdout out"):
        make["texts"](holdout=0.99).setup()
    with pytest.raises(DataError, match=r"There is no text for selection in lines \(holdout=1e-09\)"):
        make["lines"](holdout=1e-9).setup()


def test_extra_rows_cannot_be_those_that_are_held_out(make: dict[str, Maker]) -> None:
    with pytest.raises(DataError, match=r"films/train\.parquet, from which the selection split is read"):
        make["texts"](holdout=0.25, extra="films/train")
    data = make["texts"](holdout=0.25, extra="films/test")
    assert data.texts("train")[-3:] == ["very good"] * 3
    assert "very good" not in data.texts("selection")


# -- data modules of one's own, and several tasks ----------------------------------------------------------------------


class Points(RowDataModule):
    """Rows of a user's own, one of them to choose on."""

    available_splits = ("train", "selection", "validation")  # type: ignore[assignment]

    def make_rows(self, split: str) -> Any:
        return [{"x": float(row), "labels": row % 2} for row in range(len(split))]


def test_rows_of_ones_own_are_chosen_on_where_they_are_called_selection() -> None:
    data = Points()
    data.setup()
    assert data.sizes == {"train": 5, "selection": 9, "validation": 10}
    assert sum(len(batch["x"]) for batch in data.val_dataloader()) == 9
    assert sum(len(batch["x"]) for batch in data.eval_loader("validation")) == 10


class Loaders(DataModule):
    """A data module that brings its loaders."""

    def __init__(self, *splits: str) -> None:
        super().__init__()
        self.splits = splits

    @property
    def available_splits(self) -> Any:
        return self.splits

    def val_dataloader(self) -> Any:
        return DataLoader(["chosen"])  # type: ignore[arg-type]

    def test_dataloader(self) -> Any:
        return DataLoader(["tested"])  # type: ignore[arg-type]


def test_loaders_of_ones_own_give_the_rows_to_choose_on_as_val_dataloader() -> None:
    data = Loaders("train", "selection", "test")
    assert (data.selection_split, data.report_split, data.other_splits) == ("selection", "test", [])
    assert [list(data.eval_loader(split)) for split in ("selection", "test")] == [[["chosen"]], [["tested"]]]
    assert data.eval_loader("validation") == []
    assert Loaders("train", "selection").report_split == "selection"
    with pytest.raises(DataError, match=r"Loaders has a 'selection' split.*write eval_loader\(split\)"):
        Loaders("train", "selection", "validation").eval_loader("validation")


def of_tasks(loader: Any) -> Counter[tuple[str, str]]:
    """Count the rows of each task and split."""
    return Counter((batch["task"], batch.get("split", "validation")) for batch in loader for _ in batch["sample_id"])


def test_a_task_that_holds_nothing_out_is_chosen_on_its_validation_rows() -> None:
    data = MultiTask({"one": SyntheticSentiment(40, 10, holdout=0.25), "two": SyntheticSentiment(20, 6, seed=1)})
    data.setup()
    assert (data.selection_split, data.report_split) == ("selection", "validation")
    assert of_tasks(data.val_dataloader()) == {("one", "selection"): 10, ("two", "validation"): 6}
    assert of_tasks(data.eval_loader("validation")) == {("one", "validation"): 10, ("two", "validation"): 6}


def test_what_several_tasks_report_is_what_each_of_them_does(make: dict[str, Maker]) -> None:
    tested = make["texts"](holdout=0.25, splits={"train": "train", "test": "test"})
    data = MultiTask({"one": tested, "two": make["texts"]()})
    data.setup()
    assert data.report_split == "validation"
    assert of_tasks(data.eval_loader("validation")) == {("one", "test"): 3, ("two", "validation"): 2}
    plain = MultiTask({"one": make["texts"](), "two": make["texts"]()})
    assert (plain.selection_split, plain.available_splits) == ("validation", ["train", "validation"])
    assert plain.eval_loader("selection") == []
