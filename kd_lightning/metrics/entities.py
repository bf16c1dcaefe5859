"""How many named entities were found: precision, recall and F1 over whole entities."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from kd_lightning.core.batch import field, required_field
from kd_lightning.core.types import Batch, Features
from kd_lightning.metrics.base import BatchMetric, Shared


class EntityScores(BatchMetric):
    """Precision, recall and F1 over entities, and the share of words with the right tag, as `seqeval` counts them.

    An entity counts where its words and its type are right, as `conlleval.pl` has it: an `I-` after `O`, or after
    another type, begins an entity. Scores are over whole sentences, put together from the rows they were cut into; one
    of which a row was not seen, as in a rehearsal of two batches, does not count.

    Args:
        data: the data module; its `rebuild` makes sentences of rows, and its `sentences` has their words.

    Example:
        >>> from kd_lightning.data.text.tagged_rows import Rebuilt
        >>> class Data:
        ...     def rebuild(self, split, rows, tags):
        ...         return Rebuilt([0], [["B-PER", "I-PER", "O"]], [[["O", "B-PER", "I-PER"][i] for i in tags]])
        >>> scores = EntityScores(Data())
        >>> logits = torch.eye(3)[[0, 1, 2, 0, 0]].unsqueeze(0)  # of [CLS], three words and [SEP]
        >>> batch = {"sample_id": torch.tensor([0]), "logits_mask": torch.tensor([[0, 1, 1, 1, 0]])}
        >>> scores.update({"logits": logits}, batch)
        >>> {name: round(score.item(), 2) for name, score in scores.compute().items()}
        {'f1': 1.0, 'precision': 1.0, 'recall': 1.0, 'accuracy': 1.0}

    """

    gives: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall", "accuracy")
    rows: list[Tensor]
    tags: list[Tensor]

    def __init__(self, data: Any) -> None:
        super().__init__()
        self._data = Shared(data)
        self._split = "validation"
        self._last: Any = None
        self.add_state("rows", default=[], dist_reduce_fx="cat")
        self.add_state("tags", default=[], dist_reduce_fx="cat")

    def update(self, features: Features, batch: Batch) -> None:
        """Note the best tag of each word.

        Args:
            features: with `logits` (batch, length, tags).
            batch: with `logits_mask` (batch, length), `sample_id` and, if it is not the validation split, `split`.

        """
        counts = required_field(batch, "logits_mask").bool()
        self.rows.append(required_field(batch, "sample_id"))
        self.tags.append(features["logits"].argmax(-1)[counts])
        self._split = field(batch, "split") or "validation"

    def compute(self) -> dict[str, Tensor]:
        """Return the scores of all sentences that were seen; zeros where there are none."""
        from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

        if not len(self.rows):
            self._last = None
            return self._named([0.0] * len(self.gives))
        rows, tags = (dim_zero_cat(state).cpu().numpy() for state in (self.rows, self.tags))
        seen = self._data.it.rebuild(self._split, rows, tags)
        self._last = (self._split, seen)
        if not seen.gold:  # parts of sentences only
            return self._named([0.0] * len(self.gives))
        found = precision_recall_fscore_support(seen.gold, seen.predicted, average="micro", zero_division=0)
        precision, recall, f1 = found[:3]
        return self._named([f1, precision, recall, _accuracy(seen.gold, seen.predicted)])

    def _named(self, scores: list[float]) -> dict[str, Tensor]:
        named = zip(self.gives, scores, strict=True)
        return {name: torch.tensor(float(score), device=self.device) for name, score in named}

    def write(self, folder: Path) -> Path:
        """Write the last scored sentences into `predictions.txt`, as `conlleval.pl` reads them.

        A line has a word, its tag and the predicted tag; sentences are parted by blank lines.
        """
        file = folder / "predictions.txt"
        if self._last is None:
            file.write_text("")
            return file
        split, seen = self._last
        words = self._data.it.sentences(split).words
        with file.open("w", encoding="utf-8") as lines:
            for number, *tags in zip(seen.numbers, seen.gold, seen.predicted, strict=True):
                columns = zip(map(_column, words[number]), *tags, strict=True)
                lines.write("".join(f"{' '.join(line)}\n" for line in columns) + "\n")
        return file


def _accuracy(gold: list[list[str]], predicted: list[list[str]]) -> float:
    right = [one == other for pair in zip(gold, predicted, strict=True) for one, other in zip(*pair, strict=True)]
    return sum(right) / max(len(right), 1)


def _column(word: str) -> str:
    """Return a word as a column, which has no blanks and is not empty."""
    return "_".join(word.split()) or "_"
