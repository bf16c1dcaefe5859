"""Tagging: a class for every word of a sentence."""

from __future__ import annotations

from typing import Any

from kd_lightning.metrics import BatchMetric, EntityScores
from kd_lightning.tasks.base import Task


class TokenClassificationTask(Task):
    """A tag per word: logits (B, L, C) at first word pieces against labels (B, L), −100 elsewhere."""

    head = "token-classification"

    def recorder(self, data: Any) -> BatchMetric:
        """Return what writes predictions in CoNLL's columns."""
        return EntityScores(data)
