"""Feature taps: collect features inside a model by address, and leave the model as it was."""

from kd_lightning.features.info import model_info
from kd_lightning.features.runner import Runner, TappedModel
from kd_lightning.features.tap import FeatureTap
from kd_lightning.features.widths import module_kinds, module_widths

__all__ = ["FeatureTap", "Runner", "TappedModel", "model_info", "module_kinds", "module_widths"]
