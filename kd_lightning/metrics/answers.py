"""Answers extracted from start and end logits: recorded, scored as by the official scorers, and written for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from kd_lightning.core.batch import field, logits_mask, required_field, token_mask
from kd_lightning.core.errors import ConfigError
from kd_lightning.core.files import write_text
from kd_lightning.core.types import Batch, Features
from kd_lightning.functional.spans import best_spans
from kd_lightning.metrics.base import BatchMetric, Shared
from kd_lightning.metrics.scorers import cmrc_scores, squad_scores

Scorer: TypeAlias = Callable[[Mapping[str, str], Mapping[str, Sequence[str]]], Mapping[str, float]]

SCORERS: dict[str, Scorer] = {"english": squad_scores, "chinese": cmrc_scores}

STATES = ("rows", "starts", "ends", "sums")


class QuestionData(Protocol):
    """The members of a data module of questions, such as `data.QuestionAnswering`, that `Answers` uses.

    Args:
        n_best: answers kept per question.
        max_answer_length: tokens of an answer at most.
        tokenizer: with `cls_token_id`.

    """

    n_best: int
    max_answer_length: int
    tokenizer: Any

    def questions(self, split: str) -> Any:
        """Return a split's questions, of which `ids`, `contexts` and `answers` (right ones, a list each) are read."""

    def rows(self, split: str) -> Any:
        """Return a split's rows: `offsets` of their tokens, and `notes` by name.

        Notes are `example` (rows,), the question's number, and `char_start` and `char_end` (tokens,), the place of each
        token in the context, −1 outside of it.
        """


class Answers(BatchMetric):
    """Records the best answers to each question, over all rows its context was cut into; computes no score.

    Of each row, the spans with the largest sum of start and end logit are kept, on the device. Devlin et al. 2019,
    section 4.2. `predicted` has them after `compute`: by question, (text, sum) from the best, each text once.

    Args:
        data: the data module that the batches come from; copies of the metric share it.

    """

    addresses = ("start_logits", "end_logits")
    rows: list[Tensor]
    starts: list[Tensor]
    ends: list[Tensor]
    sums: list[Tensor]

    def __init__(self, data: QuestionData) -> None:
        super().__init__()
        self.data = Shared(data)
        self.split = "validation"
        self.predicted: dict[str, list[tuple[str, float]]] = {}
        for name in STATES:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, features: Features, batch: Batch) -> None:
        """Update with the logits of a batch, (B, L) each; the batch has a `logits_mask` and, perhaps, its `split`."""
        data = self.data.value
        self.split = field(batch, "split") or "validation"
        mask, before = self._candidates(batch)
        start, end = (features[name] for name in self.addresses)
        starts, ends, sums = best_spans(start, end, mask, data.n_best, data.max_answer_length)
        found = (required_field(batch, "sample_id"), starts - before, ends - before, sums)
        for name, value in zip(STATES, found, strict=True):
            getattr(self, name).append(value)

    def _candidates(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return where an answer may begin or end, (B, L), and how much padding is before each row, (B, 1)."""
        mask, tokens = logits_mask(batch), token_mask(batch)
        assert mask is not None, "batches of QuestionAnswering have it"
        assert tokens is not None, "batches of QuestionAnswering have it"
        before = tokens.argmax(1, keepdim=True)
        special = self.data.value.tokenizer.cls_token_id
        if special is not None:
            return mask.bool() & (required_field(batch, "input_ids") != special), before
        return mask.bool() & (torch.arange(mask.shape[1], device=mask.device) != before), before

    def compute(self) -> dict[str, Tensor]:
        """Gather the answers into `predicted`; there are no scores."""
        questions = self.data.value.questions(self.split)
        answers = self._answers(questions.contexts) if len(self.rows) else ()
        self.predicted = {questions.ids[example]: best for example, best in answers}
        return {}

    def _answers(self, contexts: Sequence[str]) -> Iterator[tuple[int, list[tuple[str, float]]]]:
        """Yield the predicted questions with their answers from the best; an empty answer where there is none."""
        examples, begins, ends, sums = self._spans()
        order = np.lexsort((-sums, examples))
        edges = np.flatnonzero(np.diff(examples[order], prepend=-1, append=-1))
        for first, stop in pairwise(edges):
            spans = order[first:stop]  # of one question
            question = int(examples[spans[0]])
            best: dict[str, float] = {}
            for begin, end, total in zip(begins[spans], ends[spans], sums[spans].tolist(), strict=True):
                if begin >= 0 and total > -np.inf:
                    best.setdefault(contexts[question][begin:end].strip(), total)
            yield question, list(best.items())[: self.data.value.n_best] or [("", 0.0)]

    def _spans(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the spans of all rows: each one's question, first and last character, and sum of logits."""
        rows, starts, ends, sums = (dim_zero_cat(getattr(self, name)).cpu().numpy() for name in STATES)
        tokens = self.data.value.rows(self.split)
        first = np.asarray(tokens.offsets)[rows][:, None]
        examples = np.repeat(tokens.notes["example"][rows], starts.shape[1])
        begins, stops = tokens.notes["char_start"][first + starts], tokens.notes["char_end"][first + ends]
        return examples, begins.ravel(), stops.ravel(), sums.ravel().astype(np.float64)

    def write(self, folder: Path) -> Path:
        """Write `predictions.json`, {id: text} as official scorers read it, and `nbest_predictions.json`."""
        best = {name: found[0][0] for name, found in self.predicted.items()}
        n_best = {name: _with_probabilities(found) for name, found in self.predicted.items()}
        for file, content in (("predictions.json", best), ("nbest_predictions.json", n_best)):
            write_text(folder / file, json.dumps(content, ensure_ascii=False, indent=1))
        return folder / "predictions.json"


class AnswerScores(Answers):
    """Exact match and F1 in percent, as the official scorers print them, over the questions that were predicted.

    Args:
        data: as for `Answers`.
        language: selects the scorer: `english` SQuAD's, `chinese` CMRC 2018's; or a function of {id: answer} and
            {id: references} that returns `exact_match` and `f1`.

    Raises:
        ConfigError: if the language has no scorer.

    Example:
        >>> from types import SimpleNamespace as Some
        >>> questions = Some(ids=["1"], contexts=["in old Rome"], answers=[["Rome", "old Rome"]])
        >>> notes = {"example": [0], "char_start": [-1, 0, 3, 7], "char_end": [-1, 2, 6, 11]}  # [CLS] in old Rome
        >>> rows = Some(offsets=np.array([0, 4]), notes={name: np.array(note) for name, note in notes.items()})
        >>> data = Some(n_best=2, max_answer_length=3, tokenizer=Some(cls_token_id=9))
        >>> data.questions, data.rows = (lambda split: questions), (lambda split: rows)
        >>> scores = AnswerScores(data)
        >>> ids, ones = torch.tensor([[9, 5, 6, 7]]), torch.ones(1, 4)
        >>> batch = {"input_ids": ids, "attention_mask": ones, "logits_mask": ones, "sample_id": torch.tensor([0])}
        >>> start, end = torch.tensor([[8.0, 0.0, 2.0, 1.0]]), torch.tensor([[8.0, 0.0, 1.0, 3.0]])
        >>> scores.update({"start_logits": start, "end_logits": end}, batch)
        >>> scores.compute(), scores.predicted
        ({'f1': tensor(100.), 'exact_match': tensor(100.)}, {'1': [('old Rome', 5.0), ('Rome', 4.0)]})

    """

    score_names = ("f1", "exact_match")
    best_value = 100.0

    def __init__(self, data: QuestionData, language: Literal["english", "chinese"] | Scorer = "english") -> None:
        super().__init__(data)
        if isinstance(language, str) and language not in SCORERS:
            raise ConfigError(
                f"There is no scorer of answers for language '{language}'. Choices: {', '.join(SCORERS)}."
            )
        self.scorer = SCORERS[language] if isinstance(language, str) else language

    def compute(self) -> dict[str, Tensor]:
        """Return `exact_match` and `f1`; questions without a reference are left out."""
        super().compute()
        questions = self.data.value.questions(self.split)
        references = {name: texts for name, texts in zip(questions.ids, questions.answers, strict=True) if texts}
        references = {name: references[name] for name in self.predicted if name in references}
        scores = self.scorer({name: found[0][0] for name, found in self.predicted.items()}, references)
        return {name: torch.tensor(scores[name]) for name in self.score_names}


def _with_probabilities(found: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    """Return answers with their softmax over those kept."""
    sums = np.array([total for _, total in found])
    shares = np.exp(sums - sums.max())
    shares = shares / shares.sum()
    return [
        {"text": text, "probability": float(share), "score": total}
        for (text, total), share in zip(found, shares, strict=True)
    ]
