"""Training under an objective: the LightningModules, the callback, optimizers and the callbacks of a run."""

from kd_lightning.training.callback import DistillationCallback
from kd_lightning.training.module import DistillationModule
from kd_lightning.training.multi_task import MultiTaskModule
from kd_lightning.training.mutual import MutualModule

__all__ = ["DistillationCallback", "DistillationModule", "MultiTaskModule", "MutualModule"]
