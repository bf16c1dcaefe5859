"""What changes a student's forward pass during training, and leaves it as it was: module replacing, layers left out."""

from kd_lightning.training.strategies.base import Strategy
from kd_lightning.training.strategies.freeze import Freeze
from kd_lightning.training.strategies.layer_drop import LayerDrop
from kd_lightning.training.strategies.replacement import LayerReplacement
from kd_lightning.training.strategies.theseus import Replacing, Theseus

__all__ = ["Freeze", "LayerDrop", "LayerReplacement", "Replacing", "Strategy", "Theseus"]
