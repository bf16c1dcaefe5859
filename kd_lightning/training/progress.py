"""How far a run has come, for schedules."""

from __future__ import annotations

import lightning.pytorch as pl

from kd_lightning.training.optim import steps_of


def terms_are_logged(trainer: pl.Trainer) -> bool:
    """Tell whether each term's value is recorded: when loggers write, and at an epoch's first step.

    At every step it would cost milliseconds, as much as the losses of a small student.
    """
    connector = getattr(trainer, "_logger_connector", None)
    written = bool(getattr(connector, "should_update_logs", True) or trainer.fast_dev_run)  # type: ignore[attr-defined]
    return written or trainer.fit_loop.batch_idx <= 0


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
            ConfigError: for an endless loader without `max_steps`.

        """
        if self.total is None:
            self.total = steps_of(trainer)
        return self.total

    def of(self, trainer: pl.Trainer) -> float:
        """Return the share done, in [0, 1]; 0 outside of a fit."""
        if trainer.state.fn != "fit":
            return 0.0
        return min(trainer.global_step / self.steps(trainer), 1.0)
