"""Metrics that read a whole output and its batch, beside those of torchmetrics, which take logits and labels."""

from kd_lightning.metrics.base import BatchMetric, Shared
from kd_lightning.metrics.collection import Scores

__all__ = ["BatchMetric", "Scores", "Shared"]
