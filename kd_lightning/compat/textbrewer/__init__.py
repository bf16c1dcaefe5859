"""From TextBrewer's configurations and adaptors to an objective, Trainer arguments and adapters; and its losses.

TextBrewer itself is not needed: configurations are read as dicts, JSON files, or any objects with such attributes.
"""

from kd_lightning.compat.textbrewer.adaptors import adapter
from kd_lightning.compat.textbrewer.distillation import objective, terms
from kd_lightning.compat.textbrewer.losses import (
    NST,
    PKD,
    AttentionCE,
    AttentionCEMean,
    AttentionMSE,
    AttentionMSESum,
    LogitMSE,
    ProbabilityShift,
    SoftCrossEntropy,
)
from kd_lightning.compat.textbrewer.training import Training, training

__all__ = [
    "NST",
    "PKD",
    "AttentionCE",
    "AttentionCEMean",
    "AttentionMSE",
    "AttentionMSESum",
    "LogitMSE",
    "ProbabilityShift",
    "SoftCrossEntropy",
    "Training",
    "adapter",
    "objective",
    "terms",
    "training",
]
