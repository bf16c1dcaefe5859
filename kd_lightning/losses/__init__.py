"""The losses: how two tensors are compared. They know no layer name; a `Match` says where they apply."""

from __future__ import annotations

from kd_lightning.losses.attention import (
    AttentionCE,
    AttentionCEMean,
    AttentionKL,
    AttentionMSE,
    AttentionMSEMean,
    AttentionMSESum,
    SelfRelation,
)
from kd_lightning.losses.base import DistillationLoss
from kd_lightning.losses.emd import EMD
from kd_lightning.losses.hidden import FSP, NST, PKD, HiddenCosine, HiddenMSE
from kd_lightning.losses.labels import HardLabel, HardLabels, Identity, LabelMSE
from kd_lightning.losses.probability_shift import ProbabilityShift
from kd_lightning.losses.soft_target import LogitMSE, SoftCrossEntropy, SoftLabels, SoftTarget

__all__ = [
    "EMD",
    "FSP",
    "NST",
    "PKD",
    "AttentionCE",
    "AttentionCEMean",
    "AttentionKL",
    "AttentionMSE",
    "AttentionMSEMean",
    "AttentionMSESum",
    "DistillationLoss",
    "HardLabel",
    "HardLabels",
    "HiddenCosine",
    "HiddenMSE",
    "Identity",
    "LabelMSE",
    "LogitMSE",
    "ProbabilityShift",
    "SelfRelation",
    "SoftCrossEntropy",
    "SoftLabels",
    "SoftTarget",
]
