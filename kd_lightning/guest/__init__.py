"""Distillation as a guest in a LightningModule that exists and is not edited."""

from kd_lightning.guest.callback import DistillationCallback

__all__ = ["DistillationCallback"]
