"""What a resumed Trainer must know that Lightning's checkpoints do not say."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint


def remember_saved_step(trainer: pl.Trainer) -> None:
    """Keep checkpoints of every n steps from being written again right after a run was resumed from one.

    `ModelCheckpoint` forgets at which step it saved (Lightning 2.6). With accumulated gradients a resumed run has that
    step for several batches, and would overwrite the checkpoint in their midst: killed once more, it would go on
    without the gradients of the first ones.
    """
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback._every_n_train_steps > 0 and callback.monitor is None:
            callback._last_global_step_saved = max(callback._last_global_step_saved, trainer.global_step)
