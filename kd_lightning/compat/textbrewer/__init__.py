"""From TextBrewer's configurations and adaptors to an objective, Trainer arguments and adapters.

TextBrewer itself is not needed: configurations are read as dicts, JSON files, or any objects with such attributes.
"""

from kd_lightning.compat.textbrewer.adaptors import adapter
from kd_lightning.compat.textbrewer.distillation import objective, terms
from kd_lightning.compat.textbrewer.training import Training, training

__all__ = ["Training", "adapter", "objective", "terms", "training"]
