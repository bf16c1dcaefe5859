"""Feature taps: read what happens inside a model, by address, and leave it as it was."""

from kd_lightning.features.anatomy import describe
from kd_lightning.features.tap import FeatureTap
from kd_lightning.features.tapped import TappedModel

__all__ = ["FeatureTap", "TappedModel", "describe"]
