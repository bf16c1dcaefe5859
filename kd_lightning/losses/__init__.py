"""The losses: how two tensors are compared. They know no layer name; a `Match` has the places.

To add a loss: a class in a file here, its mathematics as a pure function in `functional`, and a row in the table of
`tests/losses/cases.py`. One line selects it: `objective.terms.logits.loss._target_=my.Loss`.
"""

from __future__ import annotations

from kd_lightning.losses.annealed import AnnealedLogits
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
from kd_lightning.losses.correlation import DIST
from kd_lightning.losses.decoupled import DKD, NKD
from kd_lightning.losses.emd import EMD
from kd_lightning.losses.hidden import FSP, NST, PKD, HiddenCosine, HiddenMSE
from kd_lightning.losses.labels import HardLabel, HardLabels, HardTeacher, Identity, LabelMSE
from kd_lightning.losses.maps.afd import AFD
from kd_lightning.losses.maps.attention_transfer import AttentionTransfer
from kd_lightning.losses.maps.channel_wise import ChannelWise
from kd_lightning.losses.maps.masked_generative import MaskedGenerative
from kd_lightning.losses.maps.nst_mmd import NSTMMD
from kd_lightning.losses.maps.overhaul import Overhaul
from kd_lightning.losses.maps.review import ReviewKD
from kd_lightning.losses.maps.vid import VID
from kd_lightning.losses.maps.vkd import VkD
from kd_lightning.losses.maps.wasserstein import WKDF
from kd_lightning.losses.minivit import CosineRelation, CrossRelations
from kd_lightning.losses.probability_shift import ProbabilityShift
from kd_lightning.losses.relations.irg import IRG
from kd_lightning.losses.relations.rkd import RKDAngle, RKDDistance
from kd_lightning.losses.relations.similarity import PKT, CorrelationCongruence, SimilarityPreserving
from kd_lightning.losses.soft_target import LogitMSE, SoftCrossEntropy, SoftLabels, SoftTarget
from kd_lightning.losses.standardized import LogitStandardized
from kd_lightning.losses.wasserstein import WKDL
from kd_lightning.losses.weighted import TTM, WSLD

__all__ = [
    "AFD",
    "DIST",
    "DKD",
    "EMD",
    "FSP",
    "IRG",
    "NKD",
    "NST",
    "NSTMMD",
    "PKD",
    "PKT",
    "TTM",
    "VID",
    "WKDF",
    "WKDL",
    "WSLD",
    "AnnealedLogits",
    "AttentionCE",
    "AttentionCEMean",
    "AttentionKL",
    "AttentionMSE",
    "AttentionMSEMean",
    "AttentionMSESum",
    "AttentionTransfer",
    "ChannelWise",
    "CorrelationCongruence",
    "CosineRelation",
    "CrossRelations",
    "DistillationLoss",
    "HardLabel",
    "HardLabels",
    "HardTeacher",
    "HiddenCosine",
    "HiddenMSE",
    "Identity",
    "LabelMSE",
    "LogitMSE",
    "LogitStandardized",
    "MaskedGenerative",
    "Overhaul",
    "ProbabilityShift",
    "RKDAngle",
    "RKDDistance",
    "ReviewKD",
    "SelfRelation",
    "SimilarityPreserving",
    "SoftCrossEntropy",
    "SoftLabels",
    "SoftTarget",
    "VkD",
]
