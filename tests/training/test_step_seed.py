from __future__ import annotations

import random

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader

from kd_lightning.training.callbacks.step_seed import StepSeed


class Dice(pl.LightningModule):
    """Records what every step draws."""

    def __init__(self, disturb: bool = False) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.disturb = disturb
        self.drawn: list[tuple[float, float, float]] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.drawn.append((torch.rand(1).item(), np.random.rand(), random.random()))
        if self.disturb:
            torch.rand(batch_idx + 1)
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def drawn(seed: int = 0, disturb: bool = False) -> list[tuple[float, float, float]]:
    module = Dice(disturb)
    trainer = pl.Trainer(
        max_epochs=2,
        callbacks=[StepSeed(seed)],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(torch.zeros(3, 1)))
    return module.drawn


def test_a_step_draws_the_same_whatever_was_drawn_before():
    assert drawn() == drawn(disturb=True)


def test_steps_of_all_epochs_draw_different_noise():
    assert len(set(drawn())) == 6


def test_another_seed_draws_other_noise():
    assert not set(drawn(0)) & set(drawn(1))


def test_ranks_and_neighbouring_seeds_share_no_value():
    values = {StepSeed(seed).value(rank, step) for seed in range(4) for rank in range(4) for step in range(200)}
    assert len(values) == 4 * 4 * 200


def test_the_largest_seeds_fit_the_generators():
    value = StepSeed(2**32 - 1).value(rank=4095, step=10**9)
    assert 0 <= value < 2**64
    torch.manual_seed(value)
