"""The checkpoint that a killed run goes on from: saved often, at the right moments, and when a signal asks to stop."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from kd_lightning.core.errors import ConfigError, Stopped
from kd_lightning.core.files import remove_leftovers
from kd_lightning.training.checkpoint_io import keep
from kd_lightning.training.logged import go_on, hold, note
from kd_lightning.training.resuming import save_monitored

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""What asks a run to save and to stop."""

LOGGED = "kd_logged"
"""The entry of a checkpoint that says what loggers had."""

LOOK = 10
"""Steps between two looks at the clock where several processes must agree."""


class LastCheckpoint(Checkpoint):
    """Saves the state of training every so many steps or seconds, whichever comes first, and after a signal.

    It saves between optimizer steps only, when no accumulated gradient would be lost; and where validation follows a
    step, after that, so that a resumed run never goes without it. The checkpoint before is kept beside it as
    `last.before.ckpt`. A first SIGINT, SIGTERM or SIGUSR1 is remembered until there is such a moment; the run is then
    saved and ends with `Stopped`. A second one ends it at once.

    Args:
        dirpath: the folder of the checkpoint.
        every_n_train_steps: optimizer steps between two checkpoints.
        every_seconds: seconds between two.
        filename: its name, without `.ckpt`.

    Raises:
        ConfigError: for less than one step, or no time.

    Example:
        >>> LastCheckpoint("checkpoints").path.name
        'last.ckpt'

    """

    def __init__(
        self,
        dirpath: str | Path,
        every_n_train_steps: int = 200,
        every_seconds: float = 60.0,
        filename: str = "last",
    ) -> None:
        if not isinstance(every_n_train_steps, int) or every_n_train_steps < 1:
            raise ConfigError(f"'every_n_train_steps' is a number of steps, at least 1; got {every_n_train_steps!r}.")
        if not isinstance(every_seconds, int | float) or not every_seconds > 0:
            raise ConfigError(f"'every_seconds' is a number of seconds, above 0; got {every_seconds!r}.")
        self.dirpath = str(dirpath)
        self.path = Path(dirpath) / f"{filename}.ckpt"
        self.every_n_train_steps = every_n_train_steps
        self.every_seconds = every_seconds
        self.asked: int = 0
        self._saved_step = 0
        self._saved_at = 0.0
        self._after_validation = False
        self._handlers: dict[int, Any] = {}
        self._noted: dict[str, Any] | None = None

    # -- when ---------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Have loggers wait until it is known where the run goes on."""
        if stage == "fit":
            self._noted = None
            hold(trainer)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Begin to count, and to listen to signals, in the place of Lightning, which would stop without saving."""
        self._saved_step, self._saved_at, self.asked = trainer.global_step, time.monotonic(), 0
        self._after_validation = False
        if trainer.is_global_zero:
            remove_leftovers(self.path.parent, exclusive=True)
        go_on(trainer, self._noted)
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._remember) for number in SIGNALS}

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        """Save if it is time to, and no gradient is being accumulated; stop if a signal asked to."""
        if trainer.fit_loop._should_accumulate() or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        asked = self._agreed(trainer)
        if not (asked or self._is_due(trainer)):
            return
        if _validation_follows(trainer):
            self._after_validation = True
        else:
            self._save(trainer, asked)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Save what was due before the validation that has ended, and stop if a signal asked to."""
        accumulating = trainer.fit_loop._should_accumulate()  # as where validation comes amid an epoch
        if trainer.state.fn != "fit" or trainer.sanity_checking or accumulating:
            return
        asked = self._agreed(trainer)
        if asked or self._after_validation:
            save_monitored(trainer, module)
            self._save(trainer, asked)

    def _is_due(self, trainer: Trainer) -> bool:
        step, alone = trainer.global_step, trainer.world_size == 1
        if step == self._saved_step:
            return False
        if step % self.every_n_train_steps == 0:
            return True
        late = time.monotonic() - self._saved_at >= self.every_seconds
        return late if alone else step % LOOK == 0 and bool(trainer.strategy.broadcast(late))

    def _agreed(self, trainer: Trainer) -> int:
        """Return the signal that any process was sent, the same in all of them; 0: none."""
        if trainer.world_size == 1 or not dist.is_initialized():
            return self.asked
        asked = torch.tensor([self.asked], device=trainer.strategy.root_device)
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        return int(asked)

    # -- what ---------------------------------------------------------------------------------------------------------

    def _save(self, trainer: Trainer, asked: int) -> None:
        if trainer.global_step != self._saved_step or not self.path.is_file():
            if trainer.is_global_zero and self.path.is_file():
                keep(self.path)
            trainer.save_checkpoint(self.path)
        self._saved_step, self._saved_at, self._after_validation = trainer.global_step, time.monotonic(), False
        if asked:
            raise Stopped(asked, f"step {trainer.global_step}")

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note what loggers have, whoever saves."""
        if trainer.state.fn == "fit":
            checkpoint[LOGGED] = note(trainer)

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take what loggers had."""
        self._noted = checkpoint.get(LOGGED)

    # -- signals ------------------------------------------------------------------------------------------------------

    def _remember(self, number: int, frame: Any) -> None:
        if self.asked:
            self._forget()
            raise Stopped(number)
        self.asked = number

    def _forget(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Stop if a signal came too late to be saved for: what was trained is kept, and evaluated by a resumed run."""
        self._forget()
        if asked := self._agreed(trainer):
            self._save(trainer, asked)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Leave signals to those that had them before."""
        self._forget()


def _validation_follows(trainer: Trainer) -> bool:
    loop: Any = trainer.fit_loop
    return bool(loop.epoch_loop._should_check_val_fx(loop._data_fetcher))
