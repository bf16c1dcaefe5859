"""Feature taps: collect features inside a model by address, and leave the model as it was."""

from kd_lightning.features.info import model_info, module_kinds, module_widths
from kd_lightning.features.runner import Runner, TappedModel
from kd_lightning.features.tap import FeatureTap

__all__ = ["FeatureTap", "Runner", "TappedModel", "model_info", "module_kinds", "module_widths"]
