"""The losses: how two tensors are compared. They know no layer name; a `Match` has the places.

To add a loss: a class in a file here, its mathematics as a pure function in `functional`, and a row in the table of
`tests/losses/cases.py`. One line selects it: `objective.terms.logits.loss._target_=my.Loss`.
"""

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
