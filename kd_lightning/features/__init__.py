"""Feature taps: read what happens inside a model, by address, and leave it as it was."""

from kd_lightning.features.info import model_info
from kd_lightning.features.tap import FeatureTap
from kd_lightning.features.tapped import TappedModel

__all__ = ["FeatureTap", "TappedModel", "model_info"]
