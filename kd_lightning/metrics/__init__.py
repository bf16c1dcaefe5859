"""Metrics that read a whole output and its batch, beside those of torchmetrics, which take logits and labels."""

from kd_lightning.metrics.answers import Answers, AnswerScores
from kd_lightning.metrics.base import BatchMetric, Scores, Shared
from kd_lightning.metrics.entities import EntityScores
from kd_lightning.metrics.labels import LabelRecorder
from kd_lightning.metrics.masked_tokens import MaskedTokens
from kd_lightning.metrics.matthews import MatthewsCorrCoef
from kd_lightning.metrics.scorers import cmrc_scores, squad_scores

__all__ = [
    "AnswerScores",
    "Answers",
    "BatchMetric",
    "EntityScores",
    "LabelRecorder",
    "MaskedTokens",
    "MatthewsCorrCoef",
    "Scores",
    "Shared",
    "cmrc_scores",
    "squad_scores",
]
