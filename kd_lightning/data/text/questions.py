"""Questions with their contexts and answers, as SQuAD's files have them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd_lightning.core.errors import DataError

COLUMNS = ("id", "context", "question", "answers")
OPTIONAL = ("title", "answer_start_exact")


@dataclass(frozen=True)
class Questions:
    """Rows of a table, column by column.

    Args:
        ids: what predictions are written under.
        questions: may be blank.
        contexts: where the answers are to be found.
        answers: the texts of the right answers of each question; none where it is unlabelled.
        spans: (rows, 2): where the answer to learn begins and ends in the context, in characters, the end one behind
            the last; −1 where there is none whose place is known.

    """

    ids: list[str]
    questions: list[str]
    contexts: list[str]
    answers: list[list[str]]
    spans: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, table: Any, place: object) -> Questions:
        """Read the columns `id`, `context`, `question` and, where there are any, `answers` and `answer_start_exact`.

        Of several answers the first is learned whose place is known: it begins where `answer_start` says, and
        `answer_start_exact` does not deny it.

        Args:
            table: a `pyarrow.Table`; `answers` has lists `text` and `answer_start`, or is null.
            place: where it comes from, for errors.

        Raises:
            DataError: a question, context or answer that is no text, or texts without places.

        Example:
            >>> import pyarrow as pa
            >>> answers = {"text": ["Rome", "a city"], "answer_start": [-1, 8]}
            >>> row = {"id": "1", "question": "What is it?", "context": "Rome is a city.", "answers": answers}
            >>> found = Questions.of(pa.Table.from_pylist([row]), "here")
            >>> found.answers, found.spans.tolist()
            ([['Rome', 'a city']], [[8, 14]])

        """
        rows = table.num_rows
        columns = {name: table[name].to_pylist() for name in (*COLUMNS, *OPTIONAL) if name in table.column_names}
        contexts, questions = (_texts(columns[name], name, place) for name in ("context", "question"))
        answers = [_checked(answer, row, place) for row, answer in enumerate(columns.get("answers", [None] * rows))]
        exact = columns.get("answer_start_exact", [None] * rows)
        spans = [_known(*found) for found in zip(contexts, answers, exact, strict=True)]
        texts = [list(answer["text"]) for answer in answers]
        ids = [str(name) for name in columns["id"]]
        return cls(ids, questions, contexts, texts, np.array(spans, dtype=np.int32).reshape(-1, 2))

    @classmethod
    def joined(cls, parts: Sequence[Questions]) -> Questions:
        """Return the questions of several."""
        return cls(
            ids=[one for part in parts for one in part.ids],
            questions=[one for part in parts for one in part.questions],
            contexts=[one for part in parts for one in part.contexts],
            answers=[one for part in parts for one in part.answers],
            spans=np.concatenate([part.spans for part in parts]),
        )

    def check_ids(self, place: object) -> None:
        """Refuse ids that are not of one question each.

        Raises:
            DataError: naming one.

        """
        twice = next((name for name, count in Counter(self.ids).items() if count > 1), None)
        if twice is not None:
            raise DataError(f"{place}, column 'id' holds {twice!r} more than once, and answers are written by id.")


def _texts(values: list[Any], column: str, place: object) -> list[str]:
    for row, text in enumerate(values):
        if not isinstance(text, str):
            raise DataError(f"{place}, column '{column}', row {row} holds {text!r} where a text should be.")
    return values


def _checked(answer: Any, row: int, place: object) -> Any:
    """Return an answer's texts and starts, none of either where it is null."""
    if answer is None:
        return {"text": [], "answer_start": []}
    if _fits(answer):
        return answer
    raise DataError(
        f"{place}, column 'answers', row {row} holds {answer!r} where as many texts ('text') as places "
        "('answer_start') should be."
    )


def _fits(answer: Any) -> bool:
    texts, starts = (answer.get(name) if isinstance(answer, dict) else None for name in ("text", "answer_start"))
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        return False
    return all(isinstance(text, str) for text in texts) and all(isinstance(start, int) for start in starts)


def _known(context: str, answer: Any, exact: list[bool] | None) -> tuple[int, int]:
    """Return the first answer's span whose place is known."""
    flags = exact or [True] * len(answer["text"])
    for text, start, flag in zip(answer["text"], answer["answer_start"], flags, strict=False):
        if flag and text and start >= 0 and context.startswith(text, start):
            return start, start + len(text)
    return -1, -1
