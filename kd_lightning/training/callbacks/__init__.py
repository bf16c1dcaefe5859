"""Callbacks beside the objective: reproducible noise, progress bar, predictions, pictures of learned layer maps."""

from kd_lightning.training.callbacks.layer_flow import LayerFlow
from kd_lightning.training.callbacks.predictions import WritePredictions
from kd_lightning.training.callbacks.progress_bar import ProgressBar
from kd_lightning.training.callbacks.step_seed import StepSeed

__all__ = ["LayerFlow", "ProgressBar", "StepSeed", "WritePredictions"]
