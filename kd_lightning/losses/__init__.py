"""The losses: how two tensors are compared. They know no layer name; a `Match` says where they apply."""

from __future__ import annotations

from kd_lightning.losses.attention import (
    AttentionCE,
    AttentionCEMean,
    AttentionKL,
    AttentionMSE,
    AttentionMSEMean,
    AttentionMSESum,
)
from kd_lightning.losses.base import DistillationLoss
from kd_lightning.losses.emd import EMD
from kd_lightning.losses.gram import FSP, NST
from kd_lightning.losses.hidden import PKD, HiddenCosine, HiddenMSE
from kd_lightning.losses.logits import LogitMSE
from kd_lightning.losses.probability_shift import ProbabilityShift
from kd_lightning.losses.relation import SelfRelation
from kd_lightning.losses.soft_target import SoftTarget
from kd_lightning.losses.task import HardLabel, Identity

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
    "HiddenCosine",
    "HiddenMSE",
    "Identity",
    "LogitMSE",
    "ProbabilityShift",
    "SelfRelation",
    "SoftTarget",
]
