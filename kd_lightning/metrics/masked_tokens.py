"""Perplexity and accuracy of masked language models."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kd_lightning.core.batch import required_field
from kd_lightning.core.errors import MatchError
from kd_lightning.core.types import Batch, Features
from kd_lightning.functional.hard_label import IGNORED
from kd_lightning.functional.precision import widen
from kd_lightning.metrics.base import BatchMetric


class MaskedTokens(BatchMetric):
    """Perplexity and accuracy over the tokens that have a label: the masked ones.

    Only their logits are widened, so no second copy of all logits over a large vocabulary is made. Perplexity is e to
    the mean negative log-likelihood over all tokens of a split, not a mean over batches.

    Raises:
        MatchError: in `update`, if the logits are not one row of the vocabulary per label.

    Example:
        >>> metric = MaskedTokens()
        >>> metric.update({"logits": torch.zeros(1, 3, 8)}, {"labels": torch.tensor([[0, -100, 5]])})
        >>> metric.compute()
        {'perplexity': tensor(8.), 'accuracy': tensor(0.5000)}

    """

    score_names = ("perplexity", "accuracy")

    nll: Tensor
    right: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("nll", "right", "total"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features: Features, batch: Batch) -> None:
        """Update with logits (B, L, V) and labels (B, L), −100 at tokens that are not predicted."""
        logits, labels = features["logits"], required_field(batch, "labels")
        if logits.shape[:-1] != labels.shape:
            raise MatchError(
                f"MaskedTokens got logits of shape {tuple(logits.shape)} and labels of shape {tuple(labels.shape)}: "
                "there must be logits for every label."
            )
        masked = labels != IGNORED
        chosen, targets = widen(logits[masked]), labels[masked]
        self.nll += cross_entropy(chosen, targets, reduction="sum")
        self.right += (chosen.argmax(-1) == targets).sum()
        self.total += len(targets)

    def compute(self) -> dict[str, Tensor]:
        """Return perplexity and accuracy."""
        return {"perplexity": (self.nll / self.total).exp().float(), "accuracy": (self.right / self.total).float()}
