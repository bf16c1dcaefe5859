"""Noise that depends on the step alone, so that a resumed run draws the same numbers as an uninterrupted one."""

from __future__ import annotations

import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch


class StepSeed(pl.Callback):
    """Seeds torch, numpy and Python before every training batch from (seed, rank, step). There is nothing to save.

    Lightning keeps no random state in checkpoints; with this, dropout and other noise of a step are the same whether or
    not the run was killed and resumed. Ranks draw different noise.

    Args:
        seed: not negative; usually the run's seed.

    Example:
        >>> StepSeed(0).value(rank=0, step=7) == StepSeed(0).value(rank=0, step=7)
        True
        >>> StepSeed(0).value(rank=1, step=7) == StepSeed(0).value(rank=0, step=7)
        False

    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def value(self, rank: int, step: int) -> int:
        """Return the 64-bit seed of a step: a hash, so that seeds of neighbouring steps are unrelated."""
        return int(np.random.SeedSequence([self.seed, rank, step]).generate_state(1, np.uint64)[0])

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed before the training step; steps are counted in batches, over all epochs."""
        value = self.value(trainer.global_rank, trainer.fit_loop.epoch_loop.total_batch_idx)
        torch.manual_seed(value)
        random.seed(value)
        np.random.seed(value % 2**32)
