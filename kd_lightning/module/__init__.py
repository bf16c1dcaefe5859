"""The LightningModules that train: one task, or several tasks in turn."""

from kd_lightning.module.distillation import DistillationModule
from kd_lightning.module.multi_task import MultiTaskModule

__all__ = ["DistillationModule", "MultiTaskModule"]
