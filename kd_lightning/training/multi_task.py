"""Several tasks in one run: one student body with a head per task, and for each task its own teachers and objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from kd_lightning.core.batch import batch_size, sub_batch, task_of
from kd_lightning.core.errors import ConfigError
from kd_lightning.core.types import Batch, Features
from kd_lightning.training.checks import check_finite, check_not_shared, check_trainable
from kd_lightning.training.module import DistillationModule
from kd_lightning.training.optim import OptimizerFactory, SchedulerFactory
from kd_lightning.training.progress import terms_are_logged
from kd_lightning.training.several import SeveralModules, check_name, own_modules


class MultiTaskModule(SeveralModules):
    """Trains students of several tasks in one run; parameters that they share are trained by all of them.

    Each task is a complete `DistillationModule`: a student, a teacher source, an objective and metrics. Students that
    share a body (`students.share_body`) are one student with a head per task. A batch is a mapping with a field `task`,
    and belongs to that task alone; `data.MultiTask` makes such batches.

    Logged are `train/loss`, for each task `train/<task>/loss/<term>` and the like, `val/<task>/<metric>`, and
    `val/mean`, the mean of the tasks' first metrics (as shares of 1, where one is in percent).

    Args:
        tasks: modules by task (letters, digits, underscores). Their own optimizers and schedulers are not used.
        optimizer: as of `DistillationModule`, over everything that is trained, each parameter once.
        scheduler: as of `DistillationModule`; `ReduceLROnPlateau` monitors `val/mean`.

    Raises:
        ConfigError: if there are no tasks, a name has other characters, two tasks use one teacher source, or only some
            tasks have metrics; in `setup`, if a DDP strategy does not look for unused parameters, as the other tasks'
            heads are.

    Example:
        >>> from kd_lightning import Match, Objective, Term
        >>> body = nn.Linear(4, 8)
        >>> def task(labels):
        ...     objective = Objective({"mse": Term(Match("logits", "logits"), nn.MSELoss())})
        ...     return DistillationModule(nn.Sequential(body, nn.Linear(8, labels)), nn.Linear(4, labels), objective)
        >>> module = MultiTaskModule({"two": task(2), "three": task(3)})
        >>> len(module.configure_optimizers().param_groups[0]["params"])
        6

    """

    def __init__(
        self,
        tasks: Mapping[str, DistillationModule],
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(optimizer, scheduler)
        _check_tasks(tasks)
        _check_metrics(tasks)
        for task in tasks.values():
            for other in tasks.values():
                check_not_shared(task.student, other.teacher)
            check_trainable(task.student)
            if task.strategy is not None:
                raise ConfigError(f"{type(task.strategy).__name__} trains one task: leave the strategy out.")
            if task.teacher is not None and task.teacher.follows_student:
                raise ConfigError(
                    f"{type(task.teacher).__name__} follows the student of one task: take another teacher."
                )
        self.tasks = nn.ModuleDict(tasks)
        self._updated: set[str] = set()

    @property
    def members(self) -> dict[str, DistillationModule]:
        """The tasks' modules by name, in order."""
        return own_modules(self.tasks)

    @property
    def main_metric(self) -> str:
        """The mean of the tasks' first metrics."""
        return "mean"

    # -- one batch ---------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compare the student of the batch's task with its teacher."""
        name, task = self._task_of(batch)
        report = task.compare(batch, across_ranks=True)
        check_finite(report, self.trainer, batch, task.teacher)
        self._log_only(name)
        logs = {"train/loss": report.total.detach(), **report.logs(f"train/{name}", terms_are_logged(self.trainer))}
        self.log_dict(logs, batch_size=batch_size(sub_batch(batch, "student")))
        return report.total

    def _log_only(self, name: str) -> None:
        """Keep Lightning from logging other tasks' last losses once more with this step; callbacks still find them."""
        for entry in (getattr(self.trainer, "_results", None) or {}).values():
            logged = entry.meta.name.split("/")
            if len(logged) > 2 and logged[0] == "train":
                entry.meta.logger = logged[1] == name

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch as its task's teacher prepares it on the CPU, before it is moved to the device."""
        return self._task_of(batch)[1].prepare(batch)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Features | None:
        """Update the metrics of the batch's task."""
        name, task = self._task_of(batch)
        self._updated.add(name)
        return task.validation_step(batch, batch_idx)

    def _task_of(self, batch: Batch) -> tuple[str, DistillationModule]:
        tasks = self.members
        name = task_of(batch, tasks)
        return name, tasks[name]

    def scores(self) -> dict[str, Tensor]:
        """Return `<task>/<metric>` of every task that had batches, and `mean` over these tasks' first metrics."""
        tasks = self.members
        scores = {name: task.scores() for name, task in tasks.items() if name in self._updated}
        self._updated.clear()
        flat = {f"{name}/{metric}": value for name, own in scores.items() for metric, value in own.items()}
        main = [own[tasks[name].main_metric] / tasks[name].main_best_value for name, own in scores.items()]
        return {"mean": torch.stack(main).mean(), **flat}

    # -- the run -----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Set up every task, with its teacher on the trainer's device."""
        _check_strategy(self.trainer.strategy)
        super().setup(stage)


def check_task_name(name: object) -> None:
    """Refuse what cannot be the name of a task.

    Raises:
        ConfigError: if it is no text of letters, digits and underscores, or is an attribute of `nn.ModuleDict`.

    """
    check_name(name, "A task", "sst2")


def _check_tasks(tasks: Mapping[str, DistillationModule]) -> None:
    if not isinstance(tasks, Mapping) or not tasks:
        raise ConfigError("Several tasks need modules by name, such as {'sst2': DistillationModule(…)}.")
    sources: dict[int, str] = {}
    for name, task in tasks.items():
        check_task_name(name)
        if not isinstance(task, DistillationModule):
            raise ConfigError(f"Expected task '{name}' to be a DistillationModule but got {type(task).__name__}.")
        other = sources.setdefault(id(task.teacher), name) if task.teacher is not None else name
        if other != name:
            raise ConfigError(
                f"Tasks '{other}' and '{name}' have one teacher source, which returns one task's features at a "
                "time. Give each a source of its own: LiveTeacher(model) twice may hold the same model."
            )


def _check_metrics(tasks: Mapping[str, DistillationModule]) -> None:
    """Refuse a mean of losses and scores."""
    without = [name for name, task in tasks.items() if task.metrics is None]
    if without and len(without) < len(tasks):
        raise ConfigError(
            f"Task '{without[0]}' has no metrics, so its loss would be averaged with other tasks' scores. "
            "Give metrics to every task, or to none."
        )


def _check_strategy(strategy: Any) -> None:
    several = isinstance(strategy, DDPStrategy) and strategy.world_size > 1
    if several and not strategy._ddp_kwargs.get("find_unused_parameters"):
        raise ConfigError(
            "A step trains one task's head and no other, which DDP treats as an error. "
            "Use Trainer(strategy='ddp_find_unused_parameters_true')."
        )
