"""How well hidden tokens are guessed."""

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
    """Perplexity and accuracy over the tokens that have a label: the hidden ones.

    Only those are looked at, so no second copy of the logits of all tokens over a large vocabulary is made. Perplexity
    is e to the mean negative log-likelihood over all tokens of a split, not a mean over batches.

    Raises:
        MatchError: in `update`, logits that are not one row of the vocabulary per label.

    Example:
        >>> metric = MaskedTokens()
        >>> metric.update({"logits": torch.zeros(1, 3, 8)}, {"labels": torch.tensor([[0, -100, 5]])})
        >>> metric.compute()
        {'perplexity': tensor(8.), 'accuracy': tensor(0.5000)}

    """

    gives = ("perplexity", "accuracy")

    nll: Tensor
    right: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("nll", "right", "total"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features: Features, batch: Batch) -> None:
        """Take in logits (B, L, V) and labels (B, L), −100 where nothing is to be guessed."""
        logits, labels = features["logits"], required_field(batch, "labels")
        if logits.shape[:-1] != labels.shape:
            raise MatchError(
                f"MaskedTokens got logits of shape {tuple(logits.shape)} and labels of shape {tuple(labels.shape)}: "
                "there must be logits for every label."
            )
        hidden = labels != IGNORED
        chosen, wanted = widen(logits[hidden]), labels[hidden]
        self.nll += cross_entropy(chosen, wanted, reduction="sum")
        self.right += (chosen.argmax(-1) == wanted).sum()
        self.total += len(wanted)

    def compute(self) -> dict[str, Tensor]:
        """Return both scores."""
        return {"perplexity": (self.nll / self.total).exp().float(), "accuracy": (self.right / self.total).float()}
