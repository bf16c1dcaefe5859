"""Schedules: how a weight or a temperature changes over training, and from sample to sample."""

from kd_lightning.objective.schedules.samples import CWSM, FLSW
from kd_lightning.objective.schedules.weights import Constant, Cosine, LinearDecay, LinearGrowth, Warmup

__all__ = ["CWSM", "FLSW", "Constant", "Cosine", "LinearDecay", "LinearGrowth", "Warmup"]
