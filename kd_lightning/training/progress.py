"""How far a run is: its number of optimizer steps, the share that is done, and the steps that are logged."""

from __future__ import annotations

import os

import lightning.pytorch as pl
import numpy as np

from kd_lightning.core.errors import ConfigError


class TrainingProgress:
    """Share of a run's optimizer steps that are done; counts the steps of the whole run once.

    Example:
        >>> TrainingProgress().total is None
        True

    """

    def __init__(self) -> None:
        self.total: int | None = None

    def steps(self, trainer: pl.Trainer) -> int:
        """Return the optimizer steps of the whole run.

        Raises:
            ConfigError: if the loader is endless and `max_steps` is not set.

        """
        if self.total is None:
            before_the_fit = trainer.fit_loop._combined_loader is None
            try:
                steps = trainer.estimated_stepping_batches
            except ValueError as error:  # such as a validation after more batches than there are
                raise ConfigError(" ".join(str(error).split())) from error
            if before_the_fit:
                # Counting set the loaders up; a fit that finds them set up does not load their saved position
                # (Lightning 2.6).
                trainer.fit_loop._combined_loader = None
            if trainer.limit_train_batches == 0:  # for which Lightning knows no number
                steps = 0
            if steps == float("inf") or steps < 0:  # -1: an endless loader with a number of epochs
                raise ConfigError("The run has no end, so no schedule can be made. Set Trainer(max_steps=…).")
            if steps < 1:
                raise ConfigError(
                    "The run has no optimizer step, so no schedule can be made. Give the Trainer a larger max_steps, "
                    f"max_epochs or limit_train_batches (now {trainer.max_steps}, {trainer.max_epochs} and "
                    f"{trainer.limit_train_batches}), or the loader more batches."
                )
            self.total = int(steps)
        return self.total

    def of(self, trainer: pl.Trainer) -> float:
        """Return the share done, in [0, 1]; 0 outside of a fit."""
        if trainer.state.fn != "fit":
            return 0.0
        return min(trainer.global_step / self.steps(trainer), 1.0)


def seed_of_step(trainer: pl.Trainer) -> int:
    """Return the seed of a training step's random choices: of the run's seed and the step, the same on all ranks.

    A resumed run makes the choices of one that was never killed. Outside of training it is 0. The run's seed is that of
    `lightning.seed_everything`.
    """
    if not trainer.training:
        return 0
    run = int(os.environ.get("PL_GLOBAL_SEED") or 0)
    step = trainer.fit_loop.epoch_loop.total_batch_idx
    return int(np.random.SeedSequence([run, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def terms_are_logged(trainer: pl.Trainer) -> bool:
    """Tell whether each term's value is logged in this step: when loggers write, and at an epoch's first step.

    At every step it would cost milliseconds, as much as the losses of a small student.
    """
    connector = getattr(trainer, "_logger_connector", None)
    written = bool(getattr(connector, "should_update_logs", True) or trainer.fast_dev_run)  # type: ignore[attr-defined]
    return written or trainer.fit_loop.batch_idx <= 0
