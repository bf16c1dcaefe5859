"""What every strategy is: a change of the student's forward pass that holds within a training step and nowhere else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from kd_lightning.core.types import LossReport
from kd_lightning.teachers import TeacherSource
from kd_lightning.training.progress import TrainingProgress, seed_of_step


class Strategy(ABC):
    """Changes the student's forward pass in training steps; in between, the student is what it was.

    Evaluation, export, copies and checkpoints therefore see the plain student. A strategy holds no state that a
    checkpoint needs: what it does in a step is a function of progress and of the step's seed, which all ranks share.
    It is no `nn.Module`, so that nothing of it is among the student's or the module's parameters.

    To write one, subclass this, or `LayerReplacement` where layers run in another way in some steps.
    """

    needs_teacher: bool = True
    """Whether students that learn from labels alone go without it."""

    skips_parameters: bool = False
    """Whether some trainable parameters have no gradient in some steps, for which DDP must be told to look."""

    @abstractmethod
    def prepare(self, student: nn.Module, teacher: TeacherSource | None, addresses: Sequence[str] = ()) -> None:
        """Check that the models fit, and prepare for them, before the optimizer is made.

        Args:
            student: the model that is trained; its weights may be changed, or frozen.
            teacher: its teacher.
            addresses: of the student's features that terms and metrics read.

        Raises:
            ConfigError: if the strategy cannot work with them.

        """

    @abstractmethod
    def applied(self, progress: float, seed: int) -> AbstractContextManager[None]:
        """Return a context in which the student runs as it does in one training step.

        Args:
            progress: share of training done, in [0, 1].
            seed: of this step's random choices, the same on all ranks.

        """

    def setup(self, trainer: Any) -> None:  # noqa: B027 - not every strategy needs it
        """Check the trainer before a fit, and move what the strategy holds to its device.

        Raises:
            ConfigError: if the strategy cannot work with it.

        """

    def keep_graph(self, total: Tensor) -> Tensor:
        """Return a step's loss, with a graph also where nothing trainable ran in it."""
        return total


def strategy_applied(
    strategy: Strategy | None, progress: TrainingProgress, trainer: Any
) -> AbstractContextManager[None]:
    """Return the context of a training step; without a strategy it changes nothing."""
    if strategy is None:
        return nullcontext()
    return strategy.applied(progress.of(trainer), seed_of_step(trainer))


def with_graph(strategy: Strategy | None, report: LossReport) -> LossReport:
    """Return a step's losses, with a graph also where nothing trainable of a strategy's student ran."""
    return report if strategy is None else replace(report, total=strategy.keep_graph(report.total))
