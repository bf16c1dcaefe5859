"""Callbacks that can be removed without changing what is trained for."""

from kd_lightning.callbacks.layer_flow import LayerFlow
from kd_lightning.callbacks.predictions import WritePredictions
from kd_lightning.callbacks.progress import Progress
from kd_lightning.callbacks.step_seed import StepSeed

__all__ = ["LayerFlow", "Progress", "StepSeed", "WritePredictions"]
