"""Masked language modelling: which token was hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kd_lightning.tasks.base import Task

if TYPE_CHECKING:
    from kd_lightning.data import DataModule


class MaskedLMTask(Task):
    """Hidden tokens: logits over the vocabulary, (B, L, V), against the true tokens, −100 where nothing is hidden."""

    head = "masked-lm"
    cacheable = False  # other tokens are hidden in every epoch

    def model_options(self, data: DataModule) -> dict[str, Any]:
        """Return what a model's configuration says of labels: nothing."""
        return {"problem_type": None}
