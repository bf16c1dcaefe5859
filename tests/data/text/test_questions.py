from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from kd_lightning.core.errors import DataError
from kd_lightning.data.text.questions import Questions

CONTEXT = "Rome is a city; Rome is old."


def read(**changes: Any) -> Questions:
    row = {"id": "1", "context": CONTEXT, "question": "What?", "answers": None} | changes
    return Questions.of(pa.Table.from_pylist([row]), "here")


def learned(texts: list[str], starts: list[int], **changes: Any) -> str | None:
    found = read(answers={"text": texts, "answer_start": starts}, **changes)
    begin, end = found.spans[0]
    assert found.answers == [texts]  # all are evaluated, whatever is learned
    return CONTEXT[begin:end] if begin >= 0 else None


def test_the_first_answer_is_learned():
    assert learned(["a city", "old"], [8, 24]) == "a city"


@pytest.mark.parametrize(
    ("texts", "starts", "exact"),
    [
        (["a city", "old"], [-1, 24], None),  # no place
        (["a city", "old"], [9, 24], None),  # another text is there
        (["a city", "old"], [8, 24], [False, True]),  # the place was guessed
        (["", "old"], [8, 24], None),  # nothing to be found
    ],
)
def test_an_answer_of_unknown_place_gives_way_to_the_next(texts, starts, exact):
    flags = {} if exact is None else {"answer_start_exact": exact}
    assert learned(texts, starts, **flags) == "old"
    assert learned(texts[:1], starts[:1], **{name: value[:1] for name, value in flags.items()}) is None


def test_a_question_without_answers_is_unlabelled():
    for found in (read(), read(answers={"text": [], "answer_start": []})):
        assert (found.answers, found.spans.tolist()) == ([[]], [[-1, -1]])
    table = pa.table({"id": ["1", "2"], "context": ["a", "b"], "question": ["", ""]})
    assert Questions.of(table, "here").answers == [[], []]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"context": None}, "here, column 'context', row 0 holds None where a text should be"),
        ({"question": 3}, "here, column 'question', row 0 holds 3 where a text should be"),
        ({"answers": "Rome"}, "here, column 'answers', row 0 holds 'Rome' where as many texts"),
        ({"answers": {"text": ["Rome"], "answer_start": []}}, "where as many texts"),
        ({"answers": {"text": ["Rome"], "answer_start": ["0"]}}, "where as many texts"),
        ({"answers": {"text": ["Rome"]}}, "where as many texts"),
    ],
)
def test_what_is_no_question_is_refused(changes, said):
    with pytest.raises(DataError, match=said):
        read(**changes)


def test_ids_that_are_not_of_one_question_each_are_refused():
    found = read()
    found.check_ids("here")
    with pytest.raises(DataError, match="here, column 'id' holds '1' more than once"):
        Questions(*([*value, *value] for value in list(vars(found).values())[:4]), found.spans).check_ids("here")
