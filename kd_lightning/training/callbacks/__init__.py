"""Callbacks beside the objective: checkpoints, noise that can be resumed, progress bar, predictions, layer maps."""

from kd_lightning.training.callbacks.last_checkpoint import LastCheckpoint
from kd_lightning.training.callbacks.layer_flow import LayerFlow
from kd_lightning.training.callbacks.predictions import WritePredictions
from kd_lightning.training.callbacks.progress_bar import ProgressBar
from kd_lightning.training.callbacks.step_seed import StepSeed

__all__ = ["LastCheckpoint", "LayerFlow", "ProgressBar", "StepSeed", "WritePredictions"]
