"""What modules have in common that hold several `DistillationModule`s and train them as one."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn

from kd_lightning.core.errors import ConfigError
from kd_lightning.core.types import NAME, Batch, Features
from kd_lightning.training.checks import check_factories, check_weights
from kd_lightning.training.module import TRANSFER_HOOK, CloseOnException, DistillationModule, prepare_before_transfer
from kd_lightning.training.optim import (
    OptimizerFactory,
    SchedulerFactory,
    configure,
    default_optimizer,
    parameter_groups,
)
from kd_lightning.training.progress import TrainingProgress


class SeveralModules(LightningModule):
    """Base of modules that train several students in one run, by one optimizer over everything that is trained.

    A subclass keeps its modules in an `nn.ModuleDict`, returns them as `members`, and says what one batch does.

    Args:
        optimizer: as of `DistillationModule`, over everything that is trained, each parameter once.
        scheduler: as of `DistillationModule`; `ReduceLROnPlateau` monitors `val/` and `main_metric`.

    """

    def __init__(self, optimizer: OptimizerFactory | None = None, scheduler: SchedulerFactory | None = None) -> None:
        super().__init__()
        check_factories(optimizer, scheduler)
        self._make_optimizer = optimizer or default_optimizer
        self._make_scheduler = scheduler
        self._progress = TrainingProgress()

    @property
    @abstractmethod
    def members(self) -> dict[str, DistillationModule]:
        """The modules by name, in order."""

    @property
    @abstractmethod
    def main_metric(self) -> str:
        """What checkpoints are chosen by, of `scores`."""

    @abstractmethod
    def scores(self) -> dict[str, Tensor]:
        """Return each metric over all batches since the last call, on all ranks, by its bare name."""

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Features | None:
        """Do what `validation_step` does."""
        return self.validation_step(batch, batch_idx)  # type: ignore[return-value]

    def on_validation_epoch_end(self) -> None:
        """Log the scores as `val/NAME`."""
        self.log_dict({f"val/{name}": value for name, value in self.scores().items()}, prog_bar=True)

    def on_test_epoch_end(self) -> None:
        """Log the scores as `test/NAME`."""
        self.log_dict({f"test/{name}": value for name, value in self.scores().items()}, prog_bar=True)

    # -- the run -----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Set up every module, with its teacher on the trainer's device."""
        self._progress = TrainingProgress()
        for member in self.members.values():
            member.trainer = self.trainer  # Lightning sets it on direct children only
            member.setup(stage)
        prepare_before_transfer(self, [member.teacher for member in self.members.values()])

    def on_train_end(self) -> None:
        """Check what the last step made of the students' weights."""
        for member in self.members.values():
            check_weights(member.student)

    def teardown(self, stage: str) -> None:
        """Remove all taps, and move the teachers back to the CPU."""
        self.__dict__.pop(TRANSFER_HOOK, None)
        for member in self.members.values():
            member.teardown(stage)

    def close(self) -> None:
        """Remove the taps of compiled models."""
        for member in self.members.values():
            member.close()

    def configure_callbacks(self) -> list[Callback]:
        """Close the module after an exception too: a trainer calls no teardown then."""
        return [CloseOnException()]

    def configure_optimizers(self) -> Any:
        """Build one optimizer over all students and projections, and the scheduler, stepped every step."""
        members = self.members.values()
        if any(member.objective.scheduled for member in members):
            self.total_steps()  # fails here, not in the first step
        students = nn.ModuleList([member.student for member in members])
        groups = parameter_groups(students, *(member.objective for member in members))
        monitor = f"val/{self.main_metric}"
        return configure(self._make_optimizer, self._make_scheduler, groups, self.total_steps, monitor)

    def total_steps(self) -> int:
        """Return the optimizer steps of the whole run.

        Raises:
            ConfigError: if the loader is endless and `max_steps` is not set.

        """
        return self._progress.steps(self.trainer)


def check_name(name: object, what: str, example: str) -> None:
    """Refuse what cannot be the name of a module.

    Args:
        name: what was given.
        what: that is named, for the message.
        example: a name that can be.

    Raises:
        ConfigError: if it is no text of letters, digits and underscores, or is an attribute of `nn.ModuleDict`.

    """
    if not isinstance(name, str) or not NAME.fullmatch(name) or hasattr(nn.ModuleDict(), name):
        raise ConfigError(
            f"{what} cannot be named {name!r}: take letters, digits and underscores, such as '{example}'."
        )


def own_modules(modules: nn.ModuleDict) -> dict[str, DistillationModule]:
    """Return what a dict of modules holds, as what it is."""
    return {name: module for name, module in modules.items() if isinstance(module, DistillationModule)}
