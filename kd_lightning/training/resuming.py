"""What a resumed Trainer must know that Lightning's checkpoints do not say."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint


def survive_kills(trainer: pl.Trainer) -> None:
    """Mend what Lightning's checkpoints lack for runs that are killed, at the start of a fit."""
    for callback in _model_checkpoints(trainer):
        if callback._should_save_on_train_epoch_end(trainer):  # resumed at an epoch's end there is no metric any more
            callback._last_global_step_saved = max(callback._last_global_step_saved, trainer.global_step)
    checkpoints = _every_n_steps(trainer)
    _remember_saved_step(trainer, checkpoints)
    if checkpoints and not any(isinstance(callback, SaveAfterValidation) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        trainer.callbacks.append(SaveAfterValidation())  # type: ignore[attr-defined]


def _every_n_steps(trainer: pl.Trainer) -> list[ModelCheckpoint]:
    """Return the callbacks that save every n steps, whatever any metric is."""
    found = _model_checkpoints(trainer)
    return [callback for callback in found if callback._every_n_train_steps > 0 and callback.monitor is None]


def _model_checkpoints(trainer: pl.Trainer) -> list[ModelCheckpoint]:
    return [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]


def save_monitored(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Save the best checkpoints by a metric of the validation that has just ended, before a run's state is saved.

    Where validation ends an epoch, `ModelCheckpoint` waits for the epoch's own end. A state that is saved between the
    two would not know of this epoch's score, and a resumed run could replace the best checkpoint by a worse one.
    """
    scores = trainer._results.metrics(on_step=False)["callback"] if trainer._results is not None else {}
    for callback in _model_checkpoints(trainer):
        if callback.monitor in scores and callback._should_save_on_train_epoch_end(trainer):
            callback.on_train_epoch_end(trainer, module)


def _remember_saved_step(trainer: pl.Trainer, checkpoints: list[ModelCheckpoint]) -> None:
    """Keep checkpoints of every n steps from being written again right after a run was resumed from one.

    `ModelCheckpoint` forgets at which step it saved (Lightning 2.6). With accumulated gradients a resumed run has that
    step for several batches, and would overwrite the checkpoint in their midst: killed once more, it would go on
    without the gradients of the first ones.
    """
    for callback in checkpoints:
        callback._last_global_step_saved = max(callback._last_global_step_saved, trainer.global_step)


class SaveAfterValidation(pl.Callback):
    """Has checkpoints of every n steps wait for the validation that follows their step.

    A run that was saved between the two, and killed, goes on with the next batch (Lightning 2.6): that validation is
    never made, and neither is what depends on it, the best checkpoint for instance. It is the last callback, so that
    those that save the best epoch have done so before.
    """

    def __init__(self) -> None:
        self._held: list[tuple[ModelCheckpoint, int]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep checkpoints from being saved at the end of this batch if validation comes next."""
        self._save(trainer, module)
        loop: Any = trainer.fit_loop.epoch_loop
        if not module.automatic_optimization or loop._should_accumulate():
            return
        if loop._should_check_val_fx(trainer.fit_loop._data_fetcher):
            for callback in _every_n_steps(trainer):
                self._held.append((callback, callback._last_global_step_saved))
                callback._last_global_step_saved = trainer.global_step + 1  # as if it were saved already

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Save what was due before the validation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self._held:
            save_monitored(trainer, module)
            self._save(trainer, module)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Save where validation had nothing to do after all."""
        self._save(trainer, module)

    def _save(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        held, self._held = self._held, []
        for callback, step in held:
            callback._last_global_step_saved = step
            callback.on_train_batch_end(trainer, module, None, None, trainer.fit_loop.epoch_loop.batch_idx)
