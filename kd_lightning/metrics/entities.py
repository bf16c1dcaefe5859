"""Precision, recall and F1 over whole named entities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from kd_lightning.core.batch import field, required_field
from kd_lightning.core.files import replacing, write_text
from kd_lightning.core.types import Batch, Features
from kd_lightning.metrics.base import BatchMetric, Shared


class TaggedSentences(Protocol):
    """Sentences with their tags: as many `numbers` (which of the split they are), `gold` and `predicted` tag names."""

    @property
    def numbers(self) -> Sequence[int]:
        """Which sentences of the split they are."""

    @property
    def gold(self) -> list[list[str]]:
        """The names of each sentence's tags."""

    @property
    def predicted(self) -> list[list[str]]:
        """The names of the predicted tags."""


class TaggingData(Protocol):
    """The methods of a data module of tagged sentences, such as `data.SequenceLabelling`, that `EntityScores` calls."""

    def rebuild(self, split: str, rows: np.ndarray, tags: np.ndarray) -> TaggedSentences:
        """Return the sentences of a split whose rows are all among `rows`, with their tags and the predicted ones."""

    def sentences(self, split: str) -> Any:
        """Return the sentences of a split; `words` has the words of each."""


class EntityScores(BatchMetric):
    """Precision, recall and F1 over entities, and the share of words with the right tag, as `seqeval` counts them.

    An entity is right if its words and its type are, as in `conlleval.pl`: an `I-` after `O`, or after another type,
    begins an entity. Scores are over whole sentences, reassembled from the rows they were cut into; a sentence with a
    row that was not predicted, as in a run of two batches, is left out.

    Args:
        data: the data module, which reassembles sentences; copies of the metric share it.

    Example:
        >>> from types import SimpleNamespace
        >>> class Data:
        ...     def rebuild(self, split, rows, tags):
        ...         predicted = [["O", "B-PER", "I-PER"][i] for i in tags]
        ...         return SimpleNamespace(numbers=[0], gold=[["B-PER", "I-PER", "O"]], predicted=[predicted])
        >>> scores = EntityScores(Data())
        >>> logits = torch.eye(3)[[0, 1, 2, 0, 0]].unsqueeze(0)  # of [CLS], three words and [SEP]
        >>> batch = {"sample_id": torch.tensor([0]), "logits_mask": torch.tensor([[0, 1, 1, 1, 0]])}
        >>> scores.update({"logits": logits}, batch)
        >>> {name: round(score.item(), 2) for name, score in scores.compute().items()}
        {'f1': 1.0, 'precision': 1.0, 'recall': 1.0, 'accuracy': 1.0}

    """

    score_names: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall", "accuracy")
    rows: list[Tensor]
    tags: list[Tensor]

    def __init__(self, data: TaggingData) -> None:
        super().__init__()
        self._data = Shared(data)
        self._split = "validation"
        self._last: tuple[str, TaggedSentences] | None = None
        self.add_state("rows", default=[], dist_reduce_fx="cat")
        self.add_state("tags", default=[], dist_reduce_fx="cat")

    def update(self, features: Features, batch: Batch) -> None:
        """Record the best tag of each word.

        Args:
            features: with `logits` (batch, length, tags).
            batch: with `logits_mask` (batch, length), `sample_id` and, for other splits than validation, `split`.

        """
        mask = required_field(batch, "logits_mask").bool()
        self.rows.append(required_field(batch, "sample_id"))
        self.tags.append(features["logits"].argmax(-1)[mask])
        self._split = field(batch, "split") or "validation"

    def compute(self) -> dict[str, Tensor]:
        """Return the scores of all complete sentences; zeros where there are none."""
        from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

        if not len(self.rows):
            self._last = None
            return self._named([0.0] * len(self.score_names))
        rows, tags = (dim_zero_cat(state).cpu().numpy() for state in (self.rows, self.tags))
        sentences = self._data.value.rebuild(self._split, rows, tags)
        self._last = (self._split, sentences)
        if not sentences.gold:  # incomplete sentences only
            return self._named([0.0] * len(self.score_names))
        gold, predicted = sentences.gold, sentences.predicted
        found = precision_recall_fscore_support(gold, predicted, average="micro", zero_division=0)
        precision, recall, f1 = found[:3]
        right = [a == b for pair in zip(gold, predicted, strict=True) for a, b in zip(*pair, strict=True)]
        return self._named([f1, precision, recall, sum(right) / max(len(right), 1)])

    def _named(self, scores: list[float]) -> dict[str, Tensor]:
        values = (torch.tensor(float(score), device=self.device) for score in scores)
        return dict(zip(self.score_names, values, strict=True))

    def write(self, folder: Path) -> Path:
        """Write the last scored sentences into `predictions.txt`, as `conlleval.pl` reads them.

        A line has a word, its tag and the predicted tag; a blank line ends a sentence.
        """
        file = folder / "predictions.txt"
        if self._last is None:
            write_text(file, "")
            return file
        split, sentences = self._last
        words = self._data.value.sentences(split).words
        with replacing(file) as scratch, scratch.open("w", encoding="utf-8") as lines:
            for number, *tags in zip(sentences.numbers, sentences.gold, sentences.predicted, strict=True):
                # a column has no blanks and is not empty
                columns = zip(("_".join(word.split()) or "_" for word in words[number]), *tags, strict=True)
                lines.write("".join(f"{' '.join(line)}\n" for line in columns) + "\n")
        return file
