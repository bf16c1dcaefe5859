"""Questions whose answers are stretches of a text, from Parquet files or the Hugging Face hub."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from kd_lightning.core.errors import DataError
from kd_lightning.data.text.questions import COLUMNS, OPTIONAL, Questions
from kd_lightning.data.text.sourced import TextDataModule
from kd_lightning.data.text.tokens import Rows
from kd_lightning.data.text.windows import Cut, windows

log = logging.getLogger(__name__)


class QuestionAnswering(TextDataModule):
    """Extractive question answering in the columns of SQuAD 1.1: `id`, `context`, `question` and `answers`.

    A question with a long context becomes several rows that overlap, see `windows`; batches have `start_positions` and
    `end_positions` (batch,), and a `logits_mask` (batch, length) of the places where an answer may begin or end.
    Answers whose place in the context is not known are evaluated and not trained on; their rows still distil.

    Args:
        name: the data set's name; with `root`, its folder.
        tokenizer: a fast transformers tokenizer; may also be set as attribute before `setup`.
        max_length: tokens per row at most.
        stride: tokens of the context that a row shares with the next.
        max_question_length: tokens of a question; longer ones are cut.
        n_best: answers kept per question.
        max_answer_length: tokens of an answer at most, when one is predicted.
        loading: further arguments of `TextDataModule`: where questions come from (`holdout` is a share of the titles,
            or of the contexts where there are no titles) and which are trained on beside
            them (those of `extra` without `answers` are for the teacher to answer), and how batches are made. `augment`
            and `unlabelled` must stay empty: answers are places of words, and a plain text has no questions.

    Raises:
        DataError: at construction if settings contradict each other; in `setup` if a folder, file or column is missing
            or does not fit, if the tokenizer's special tokens leave no room in a row, or if there are two tokenizers.

    Example:
        >>> data = QuestionAnswering("squad", root="/nowhere", limit=100)
        >>> data.num_labels, data.sizes
        (2, {})

    """

    token_fields = ("logits_mask",)

    head = "question-answering"

    def __init__(
        self,
        name: str,
        tokenizer: Any = None,
        *,
        max_length: int = 384,
        stride: int = 128,
        max_question_length: int = 64,
        n_best: int = 20,
        max_answer_length: int = 30,
        **loading: Any,
    ) -> None:
        heads = 2  # what the heads of Transformers call start and end
        super().__init__(name=name, tokenizer=tokenizer, num_labels=heads, max_length=max_length, **loading)
        self.cut = Cut(max_length, stride, max_question_length)
        self.n_best = n_best
        self.max_answer_length = max_answer_length
        self._questions: dict[str, Questions] = {}
        self._check()

    def _check(self) -> None:
        if self.augment:
            raise DataError("Augmentations move words, and answers are places of words: leave out `augment`.")
        if self.unlabelled is not None:
            raise DataError(
                "A plain text has no questions to answer: leave out `unlabelled`, and give data sets that have some, "
                "with or without answers, as data.extra=[NAME]."
            )
        for key, value in (("n_best", self.n_best), ("max_answer_length", self.max_answer_length)):
            if value < 1:
                raise DataError(f"{key} must be at least 1; got {value}.")

    @property
    def columns(self) -> Sequence[str]:
        """The columns that are read."""
        return COLUMNS

    @property
    def optional(self) -> Sequence[str]:
        """The columns that are read where they are there."""
        first = ("title",) if self.holdout is not None and self.path is None else ()  # as fingerprints have it
        return (*first, *OPTIONAL)

    @property
    def label_columns(self) -> Sequence[str]:
        """What extra data may lack."""
        return ("answers",)

    @property
    def cache_key_fields(self) -> tuple[Any, ...]:
        """The settings that decide what rows are made of a table, besides tokenizer, `max_length` and `limit`."""
        return self.cut.stride, self.cut.max_question_length, self.holdout, *self.renamed

    @property
    def training_settings(self) -> dict[str, Any]:
        """What shapes a model trained on these questions: how long answers may be decides which epoch is the best."""
        return super().training_settings | {"max_answer_length": self.max_answer_length}

    def setup(self, stage: str | None = None) -> None:
        """Tokenise all splits, or find them tokenised.

        Raises:
            DataError: if there is no tokenizer, or two, or data is missing or does not fit.

        """
        self.check_one_tokenizer("An answer is a place among tokens")
        super().setup(stage)

    def questions(self, split: str) -> Questions:
        """Return a split's questions, contexts and answers; those to train on are read again each time, others kept.

        Raises:
            DataError: if the split is missing or does not fit, or two questions to evaluate have the same id.

        """
        if split == "train":
            return self._read(split)
        if split not in self._questions:
            self._questions[split] = self._read(split)
            self._questions[split].check_ids(self.sources[split])
        return self._questions[split]

    def _read(self, split: str) -> Questions:
        return Questions.joined([Questions.of(table, source) for table, source in self.tables(split)])

    def texts(self, split: str = "train") -> list[str]:
        """Return all texts of a split, such as a tokenizer is trained on; a context of several questions once."""
        asked = self.questions(split)
        return [*dict.fromkeys(asked.contexts), *asked.questions]

    def tokenise(self, split: str) -> Rows:
        """Return a split's rows, tokenised from its files."""
        asked = self.questions(split)
        lost = sum(bool(texts) and start < 0 for texts, (start, _) in zip(asked.answers, asked.spans, strict=True))
        if lost and split == "train":
            log.warning(
                "%s: %d of %d answers are not where 'answer_start' says, or it says nothing: no label is learnt from "
                "them. It counts characters of the context, from 0.", self.sources[split], lost, len(asked.answers),
            )  # fmt: skip
        return windows(self.tokenizer, asked, self.cut)

    def holdout_keys(self, table: Any) -> list[str]:
        """Return the titles, or the contexts where there are none: questions about one are on the same side."""
        return [str(key) for key in table["title" if "title" in table.column_names else "context"].to_pylist()]
