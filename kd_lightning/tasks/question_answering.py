"""Extractive question answering: where in a context an answer begins and ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kd_lightning.metrics import Answers, BatchMetric
from kd_lightning.tasks.base import Task

if TYPE_CHECKING:
    from kd_lightning.data import DataModule


class QuestionAnsweringTask(Task):
    """Start and end positions: logits over tokens, (B, L) each, against positions (B,)."""

    head = "question-answering"
    default_outputs = ("start_logits", "end_logits")
    default_labels = ("start_positions", "end_positions")

    def model_options(self, data: DataModule) -> dict[str, Any]:
        """Return what a model's configuration says of its two outputs."""
        return {"num_labels": 2, "problem_type": None}

    def recorder(self, data: Any) -> BatchMetric:
        """Return what writes answers as official scorers read them."""
        return Answers(data)
