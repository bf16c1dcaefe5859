"""Answers picked from start and end logits, scored as their data set's own scorer does, and written for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from kd_lightning.core.batch import field, logits_mask, required_field, token_mask
from kd_lightning.core.errors import ConfigError
from kd_lightning.core.types import Batch, Features
from kd_lightning.functional.spans import best_spans
from kd_lightning.metrics.base import BatchMetric, Shared
from kd_lightning.metrics.cmrc import cmrc_scores
from kd_lightning.metrics.squad import squad_scores

Scorer: TypeAlias = Callable[[Mapping[str, str], Mapping[str, Sequence[str]]], Mapping[str, float]]

SCORERS: dict[str, Scorer] = {"english": squad_scores, "chinese": cmrc_scores}

STATES = ("rows", "starts", "ends", "sums")


class Answers(BatchMetric):
    """Notes the best answers to each question, over all rows its context was cut into; gives no score.

    Of each row, the spans with the largest sum of start and end logit are kept, where they are computed. Devlin et al.
    2019, section 4.2. `predicted` has them after `compute`: by question, (text, sum) from the best, each text once.

    Args:
        data: the `QuestionAnswering` the batches are of, with its `n_best` and `max_answer_length`; copies share it.

    """

    addresses = ("start_logits", "end_logits")
    rows: list[Tensor]
    starts: list[Tensor]
    ends: list[Tensor]
    sums: list[Tensor]

    def __init__(self, data: Any) -> None:
        super().__init__()
        self.data = Shared(data)
        self.split = "validation"
        self.predicted: dict[str, list[tuple[str, float]]] = {}
        for name in STATES:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, features: Features, batch: Batch) -> None:
        """Take in the logits of a batch, (B, L) each; the batch has a `logits_mask` and says its `split`."""
        data = self.data.it
        self.split = field(batch, "split") or "validation"
        mask, before = self._may_answer(batch)
        start, end = (features[name] for name in self.addresses)
        starts, ends, sums = best_spans(start, end, mask, data.n_best, data.max_answer_length)
        found = (required_field(batch, "sample_id"), starts - before, ends - before, sums)
        for name, value in zip(STATES, found, strict=True):
            getattr(self, name).append(value)

    def _may_answer(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return where an answer may begin or end, (B, L), and how much padding is before each row, (B, 1)."""
        mask, tokens = logits_mask(batch), token_mask(batch)
        assert mask is not None, "batches of QuestionAnswering have it"
        assert tokens is not None, "batches of QuestionAnswering have it"
        before = tokens.argmax(1, keepdim=True)
        special = self.data.it.tokenizer.cls_token_id
        if special is not None:
            return mask.bool() & (required_field(batch, "input_ids") != special), before
        return mask.bool() & (torch.arange(mask.shape[1], device=mask.device) != before), before

    def compute(self) -> dict[str, Tensor]:
        """Note the answers, and return nothing."""
        asked = self.data.it.questions(self.split)
        seen = self._answers(asked.contexts) if len(self.rows) else ()
        self.predicted = {asked.ids[example]: best for example, best in seen}
        return {}

    def _answers(self, contexts: Sequence[str]) -> Iterator[tuple[int, list[tuple[str, float]]]]:
        """Yield the questions that were seen with their answers from the best, an empty one where there is none."""
        examples, begins, ends, sums = self._spans()
        order = np.lexsort((-sums, examples))
        edges = np.flatnonzero(np.diff(examples[order], prepend=-1, append=-1))
        for one, other in pairwise(edges):
            mine = order[one:other]
            context = contexts[examples[mine[0]]]
            best: dict[str, float] = {}
            for begin, end, total in zip(begins[mine], ends[mine], sums[mine].tolist(), strict=True):
                if begin >= 0 and total > -np.inf:
                    best.setdefault(context[begin:end].strip(), total)
            yield int(examples[mine[0]]), list(best.items())[: self.data.it.n_best] or [("", 0.0)]

    def _spans(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the spans of all rows: the question each is of, its first and last character, its sum of logits."""
        rows, starts, ends, sums = (dim_zero_cat(getattr(self, name)).cpu().numpy() for name in STATES)
        made = self.data.it.rows(self.split)
        first = np.asarray(made.offsets)[rows][:, None]
        examples = np.repeat(made.notes["example"][rows], starts.shape[1])
        begins, stops = made.notes["char_start"][first + starts], made.notes["char_end"][first + ends]
        return examples, begins.ravel(), stops.ravel(), sums.ravel().astype(np.float64)

    def write(self, folder: Path) -> Path:
        """Write `predictions.json`, {id: text} as official scorers read it, and `nbest_predictions.json`."""
        best = {name: found[0][0] for name, found in self.predicted.items()}
        several = {name: _with_probabilities(found) for name, found in self.predicted.items()}
        for file, content in (("predictions.json", best), ("nbest_predictions.json", several)):
            (folder / file).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
        return folder / "predictions.json"


class AnswerScores(Answers):
    """Exact match and F1 in percent, as the official scorers print them, over the questions that were seen.

    Args:
        data: as for `Answers`.
        language: whose scorer: `english` is SQuAD's, `chinese` CMRC 2018's; or a function of {id: answer} and
            {id: references} that gives `exact_match` and `f1`.

    Raises:
        ConfigError: for a language without a scorer.

    Example:
        >>> from types import SimpleNamespace as Some
        >>> asked = Some(ids=["1"], contexts=["in old Rome"], answers=[["Rome", "old Rome"]])
        >>> notes = {"example": [0], "char_start": [-1, 0, 3, 7], "char_end": [-1, 2, 6, 11]}  # [CLS] in old Rome
        >>> rows = Some(offsets=np.array([0, 4]), notes={name: np.array(note) for name, note in notes.items()})
        >>> data = Some(n_best=2, max_answer_length=3, tokenizer=Some(cls_token_id=9))
        >>> data.questions, data.rows = (lambda split: asked), (lambda split: rows)
        >>> scores = AnswerScores(data)
        >>> ids, ones = torch.tensor([[9, 5, 6, 7]]), torch.ones(1, 4)
        >>> batch = {"input_ids": ids, "attention_mask": ones, "logits_mask": ones, "sample_id": torch.tensor([0])}
        >>> start, end = torch.tensor([[8.0, 0.0, 2.0, 1.0]]), torch.tensor([[8.0, 0.0, 1.0, 3.0]])
        >>> scores.update({"start_logits": start, "end_logits": end}, batch)
        >>> scores.compute(), scores.predicted
        ({'f1': tensor(100.), 'exact_match': tensor(100.)}, {'1': [('old Rome', 5.0), ('Rome', 4.0)]})

    """

    gives = ("f1", "exact_match")
    best = 100.0

    def __init__(self, data: Any, language: Literal["english", "chinese"] | Scorer = "english") -> None:
        super().__init__(data)
        if isinstance(language, str) and language not in SCORERS:
            raise ConfigError(
                f"There is no scorer of answers for language '{language}'. Choices: {', '.join(SCORERS)}."
            )
        self.scorer = SCORERS[language] if isinstance(language, str) else language

    def compute(self) -> dict[str, Tensor]:
        """Return `exact_match` and `f1`; questions without a reference do not count."""
        super().compute()
        asked = self.data.it.questions(self.split)
        references = {name: texts for name, texts in zip(asked.ids, asked.answers, strict=True) if texts}
        references = {name: references[name] for name in self.predicted if name in references}
        scores = self.scorer({name: found[0][0] for name, found in self.predicted.items()}, references)
        return {name: torch.tensor(scores[name]) for name in self.gives}


def _with_probabilities(found: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    """Return answers with their softmax over all that are kept."""
    sums = np.array([total for _, total in found])
    shares = np.exp(sums - sums.max())
    shares = shares / shares.sum()
    return [
        {"text": text, "probability": float(share), "score": total}
        for (text, total), share in zip(found, shares, strict=True)
    ]
