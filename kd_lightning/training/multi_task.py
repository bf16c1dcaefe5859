"""Several tasks in one run: one student body with a head per task, and for each task its own teachers and objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from kd_lightning.core.batch import batch_size, sub_batch, task_of
from kd_lightning.core.errors import ConfigError
from kd_lightning.core.types import NAME, Batch, Features
from kd_lightning.training.checks import check_factories, check_finite, check_not_shared, check_trainable, check_weights
from kd_lightning.training.module import TRANSFER_HOOK, CloseOnException, DistillationModule, prepare_before_transfer
from kd_lightning.training.optim import (
    OptimizerFactory,
    SchedulerFactory,
    configure,
    default_optimizer,
    parameter_groups,
)
from kd_lightning.training.progress import TrainingProgress, terms_are_logged


class MultiTaskModule(LightningModule):
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
        super().__init__()
        check_factories(optimizer, scheduler)
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
        self._make_optimizer = optimizer or default_optimizer
        self._make_scheduler = scheduler
        self._progress = TrainingProgress()
        self._updated: set[str] = set()

    def named_tasks(self) -> dict[str, DistillationModule]:
        """Return the tasks' modules by name, in order."""
        return {name: task for name, task in self.tasks.items() if isinstance(task, DistillationModule)}

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
        tasks = self.named_tasks()
        name = task_of(batch, tasks)
        return name, tasks[name]

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Features | None:
        """Do what `validation_step` does."""
        return self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log every task's metrics as `val/<task>/<name>`, and their mean as `val/mean`."""
        self.log_dict({f"val/{name}": value for name, value in self.scores().items()}, prog_bar=True)

    def on_test_epoch_end(self) -> None:
        """Log every task's metrics as `test/<task>/<name>`, and their mean as `test/mean`."""
        self.log_dict({f"test/{name}": value for name, value in self.scores().items()}, prog_bar=True)

    def scores(self) -> dict[str, Tensor]:
        """Return `<task>/<metric>` of every task that had batches, and `mean` over these tasks' first metrics."""
        tasks = self.named_tasks()
        scores = {name: task.scores() for name, task in tasks.items() if name in self._updated}
        self._updated.clear()
        flat = {f"{name}/{metric}": value for name, own in scores.items() for metric, value in own.items()}
        main = [own[tasks[name].main_metric] / tasks[name].main_best_value for name, own in scores.items()]
        return {"mean": torch.stack(main).mean(), **flat}

    # -- the run -----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Set up every task, with its teacher on the trainer's device."""
        self._progress = TrainingProgress()
        _check_strategy(self.trainer.strategy)
        for task in self.named_tasks().values():
            task.trainer = self.trainer  # Lightning sets it on direct children only
            task.setup(stage)
        prepare_before_transfer(self, [task.teacher for task in self.named_tasks().values()])

    def on_train_end(self) -> None:
        """Check what the last steps made of the students' weights."""
        for task in self.named_tasks().values():
            check_weights(task.student)

    def teardown(self, stage: str) -> None:
        """Remove the taps of all tasks, and move their teachers back to the CPU."""
        self.__dict__.pop(TRANSFER_HOOK, None)
        for task in self.named_tasks().values():
            task.teardown(stage)

    def close(self) -> None:
        """Remove the taps of compiled models."""
        for task in self.named_tasks().values():
            task.close()

    def configure_callbacks(self) -> list[Callback]:
        """Close the module after an exception too: a trainer calls no teardown then."""
        return [CloseOnException()]

    def configure_optimizers(self) -> Any:
        """Build one optimizer over all students and projections, and the scheduler, stepped every step."""
        tasks = self.named_tasks().values()
        if any(task.objective.scheduled for task in tasks):
            self.total_steps()  # fails here, not in the first step
        students = nn.ModuleList([task.student for task in tasks])
        groups = parameter_groups(students, *(task.objective for task in tasks))
        return configure(self._make_optimizer, self._make_scheduler, groups, self.total_steps, "val/mean")

    def total_steps(self) -> int:
        """Return the optimizer steps of the whole run.

        Raises:
            ConfigError: if the loader is endless and `max_steps` is not set.

        """
        return self._progress.steps(self.trainer)


def check_task_name(name: object) -> None:
    """Refuse what cannot be the name of a task.

    Raises:
        ConfigError: if it is no text of letters, digits and underscores, or is an attribute of `nn.ModuleDict`.

    """
    if not isinstance(name, str) or not NAME.fullmatch(name) or hasattr(nn.ModuleDict(), name):
        raise ConfigError(f"A task cannot be named {name!r}: take letters, digits and underscores, such as 'sst2'.")


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
