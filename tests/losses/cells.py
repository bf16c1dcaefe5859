"""What each loss does under `torch.compile`, on two devices, and from a teacher's cache: the table's last columns."""

from __future__ import annotations

from dataclasses import dataclass

PASSES = "passes"
IN_EVAL = "passes with batch norm in eval mode"
EQUAL_SHARES = "passes where all processes have as many rows"


@dataclass(frozen=True)
class Cells:
    """`PASSES`, or a distinctive part of the error.

    Args:
        compile: loss and count as one graph, without a break.
        two_ranks: value and gradients of two processes with parts of a batch are, on average, those of one with all.
        cached: a term with this loss gives the same value from a cache as from the live teacher.

    """

    compile: str
    two_ranks: str
    cached: str


CELLS = {
    "AFD": Cells(PASSES, PASSES, PASSES),
    "DIST": Cells(PASSES, PASSES, PASSES),
    "DKD": Cells(PASSES, PASSES, PASSES),
    "EMD": Cells(PASSES, PASSES, PASSES),
    "FSP": Cells(PASSES, PASSES, PASSES),
    "IRG": Cells(PASSES, PASSES, PASSES),
    "NKD": Cells(PASSES, PASSES, PASSES),
    "NST": Cells(PASSES, PASSES, PASSES),
    "NSTMMD": Cells(PASSES, PASSES, PASSES),
    "PKD": Cells(PASSES, PASSES, PASSES),
    "PKT": Cells(PASSES, PASSES, PASSES),
    "TTM": Cells(PASSES, PASSES, PASSES),
    "VID": Cells(PASSES, PASSES, PASSES),
    "WKDF": Cells(PASSES, IN_EVAL, PASSES),
    "WKDL": Cells(PASSES, PASSES, PASSES),
    "WSLD": Cells(PASSES, PASSES, PASSES),
    "AnnealedLogits": Cells(PASSES, PASSES, PASSES),
    "AttentionCE": Cells(PASSES, PASSES, PASSES),
    "AttentionCEMean": Cells(PASSES, PASSES, PASSES),
    "AttentionKL": Cells(PASSES, PASSES, PASSES),
    "AttentionMSE": Cells(PASSES, PASSES, PASSES),
    "AttentionMSEMean": Cells(PASSES, PASSES, PASSES),
    "AttentionMSESum": Cells(PASSES, PASSES, PASSES),
    "AttentionTransfer": Cells(PASSES, PASSES, PASSES),
    "ChannelWise": Cells(PASSES, PASSES, PASSES),
    "CosineRelation": Cells(PASSES, PASSES, PASSES),
    "CrossRelations": Cells(PASSES, PASSES, PASSES),
    "CorrelationCongruence": Cells(PASSES, PASSES, PASSES),
    "HardLabel": Cells(PASSES, PASSES, PASSES),
    "HardLabels": Cells(PASSES, PASSES, PASSES),
    "HardTeacher": Cells(PASSES, PASSES, PASSES),
    "HiddenCosine": Cells(PASSES, PASSES, PASSES),
    "HiddenMSE": Cells(PASSES, PASSES, PASSES),
    "Identity": Cells(PASSES, EQUAL_SHARES, PASSES),
    "LabelMSE": Cells(PASSES, PASSES, PASSES),
    "LogitMSE": Cells(PASSES, PASSES, PASSES),
    "LogitStandardized": Cells(PASSES, PASSES, PASSES),
    "MaskedGenerative": Cells(PASSES, PASSES, PASSES),
    "Overhaul": Cells(PASSES, IN_EVAL, PASSES),
    "ProbabilityShift": Cells(PASSES, PASSES, PASSES),
    "RKDAngle": Cells(PASSES, PASSES, PASSES),
    "RKDDistance": Cells(PASSES, PASSES, PASSES),
    "ReviewKD": Cells(PASSES, IN_EVAL, PASSES),
    "SelfRelation": Cells(PASSES, PASSES, PASSES),
    "SimilarityPreserving": Cells(PASSES, PASSES, PASSES),
    "SoftCrossEntropy": Cells(PASSES, PASSES, PASSES),
    "SoftLabels": Cells(PASSES, PASSES, PASSES),
    "SoftTarget": Cells(PASSES, PASSES, PASSES),
    "VkD": Cells(PASSES, PASSES, PASSES),
}
