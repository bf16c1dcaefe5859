"""The LightningModule of one student: a frozen teacher, a trainable student, and the objective between them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection

from kd_lightning.core.adapter import Adapter
from kd_lightning.core.arguments import check_model
from kd_lightning.core.batch import batch_size, sub_batch
from kd_lightning.core.types import Batch, Features, LossReport, Rows
from kd_lightning.features.runner import Runner
from kd_lightning.metrics import Scores
from kd_lightning.objective import Objective
from kd_lightning.teachers import TeacherSource, as_teacher
from kd_lightning.training.checks import (
    check_adapter,
    check_factories,
    check_finite,
    check_not_shared,
    check_objective,
    check_same_teacher,
    check_strategy,
    check_teaches_others,
    check_terms_have_gradient,
    check_trainable,
    check_weights,
)
from kd_lightning.training.describe import describe_teacher, describe_terms
from kd_lightning.training.optim import (
    OptimizerFactory,
    SchedulerFactory,
    configure,
    default_optimizer,
    parameter_groups,
)
from kd_lightning.training.progress import TrainingProgress, seed_of_step, terms_are_logged
from kd_lightning.training.resuming import survive_kills
from kd_lightning.training.strategies import Strategy
from kd_lightning.training.strategies.base import strategy_applied, with_graph


class DistillationModule(LightningModule):
    """Trains a student with an objective that compares it with a frozen teacher.

    The student stays the `nn.Module` it was; the teacher is not a submodule: it is in no checkpoint, no optimizer and
    no gradient bucket. Projections are built at construction, from the models' structure.

    Args:
        student: the model to train. If all of it is in eval mode, as `from_pretrained` returns it, it is set to train.
        teacher: a teacher source, a model (which becomes a `LiveTeacher`), or None if no term needs a teacher.
        objective: the named, weighted terms; it is bound to both models here.
        optimizer: `(parameter groups) -> Optimizer`, such as `functools.partial(torch.optim.AdamW, lr=1e-4)`.
        scheduler: `(optimizer) -> scheduler`, stepped every step; `total_steps`, `num_training_steps` or `T_max` is
            filled in where it has such an argument. `ReduceLROnPlateau` monitors the first metric, after each epoch.
        metrics: metrics by name for validation, updated with the student's logits and the batch's labels; logged as
            `val/<name>`. None: the objective itself is evaluated and logged as `val/loss`.
        adapter: how to call a student that does not follow the usual forms, and what its outputs are called.
        compile: run the student and its taps as one compiled graph.
        rows: the ids and labels of all training rows, or a function that returns them, for losses that ask for them.
        strategy: what changes the student's forward pass in training steps, such as `strategies.Theseus`.

    Raises:
        AddressError, MatchError: if a term does not fit the models.
        ConfigError: if teacher and student share parameters, or if the student has no trainable parameter.

    Example:
        >>> from kd_lightning import Match, Term
        >>> objective = Objective({"mse": Term(Match("logits", "logits"), nn.MSELoss())})
        >>> module = DistillationModule(nn.Linear(4, 2), nn.Linear(4, 2), objective)
        >>> sorted(module.state_dict())
        ['student.bias', 'student.weight']

    """

    def __init__(
        self,
        student: nn.Module,
        teacher: TeacherSource | nn.Module | None,
        objective: Objective,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        metrics: MetricCollection | Mapping[str, Metric] | None = None,
        adapter: Adapter | None = None,
        compile: bool = False,
        rows: Rows | None = None,
        strategy: Strategy | None = None,
    ) -> None:
        super().__init__()
        check_strategy(strategy, compile)
        check_model("student", student)
        check_adapter(adapter)
        check_factories(optimizer, scheduler)
        check_objective(objective)
        check_not_shared(student, teacher)  # before the teacher is frozen
        check_trainable(student)
        self.teacher = as_teacher(teacher) if teacher is not None else None
        if self.teacher is not None and self.teacher.follows_student:
            self.teacher.attach(student)
        self.student = student if any(m.training for m in student.modules()) else student.train()
        self._runner = Runner(student, adapter, compile)
        self.objective = objective.bind(self._runner.info, self.teacher.info if self.teacher else None, rows)
        check_teaches_others(self.teacher, self.objective)
        self.metrics = Scores(metrics) if metrics else None
        self.main_metric = self.metrics.names[0] if self.metrics is not None else "loss"
        self.main_best_value = self.metrics.best_values[self.main_metric] if self.metrics is not None else 1.0
        self._val_loss = MeanMetric()  # weights batches by rows, which `self.log(sync_dist=True)` does only roughly
        self._make_optimizer = optimizer or default_optimizer
        self._make_scheduler = scheduler
        self._progress = TrainingProgress()
        self._select_features()
        self.strategy = strategy
        if strategy is not None:
            strategy.prepare(self.student, self.teacher, self._runner.addresses)
            check_trainable(self.student)

    def _select_features(self) -> None:
        metrics = self.metrics.addresses if self.metrics is not None else ()
        own = self.objective.teacher_addresses if self.teacher is not None and self.teacher.sees_features else ()
        self._runner.ask(list(dict.fromkeys([*self.objective.student_addresses, *own, *metrics])))
        if self.teacher is not None:
            self.teacher.ask(self.objective.teacher_addresses)

    # -- one batch ---------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compare student and teacher on one batch; logs `train/loss`, `train/loss/<term>`, `train/weighted/<term>`.

        The terms are logged when loggers write (`Trainer(log_every_n_steps=…)`) and at an epoch's first step.
        """
        with strategy_applied(self.strategy, self._progress, self.trainer):
            report = with_graph(self.strategy, self.compare(batch, across_ranks=True))
        check_terms_have_gradient(report)
        check_finite(report, self.trainer, batch, self.teacher)
        self.log_dict(
            report.logs("train", terms_are_logged(self.trainer)), batch_size=batch_size(sub_batch(batch, "student"))
        )
        return report.total

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch as its teacher prepares it on the CPU, before it is moved to the device."""
        return self.teacher.prepare(batch) if self.teacher is not None else batch

    def compare(self, batch: Batch, across_ranks: bool = False) -> LossReport:
        """Evaluate the objective on one batch."""
        if self.teacher is not None and self.teacher.sees_features:
            student = self.forward(batch)
            self.teacher.see(student)
            teacher = self.teacher(batch)
        else:
            teacher = self.teacher(batch) if self.teacher is not None and self.objective.teacher_addresses else {}
            student = self.forward(batch)
        return self.objective(student, teacher, batch, self.progress, across_ranks, self.seed)

    def forward(self, batch: Batch) -> Features:
        """Return the student's features on a batch, by address."""
        return self._runner(sub_batch(batch, "student"))

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Features | None:
        """Update the metrics, or the mean of the objective where there are none; several loaders count as one.

        Returns:
            The student's features, for callbacks; None where there are no metrics.

        """
        if self.metrics is None:
            self._val_loss.update(self.compare(batch).total, batch_size(sub_batch(batch, "student")))
            return None
        features = self.forward(batch)
        self.metrics.update(features, batch)
        return features

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Features | None:
        """Do what `validation_step` does."""
        return self.validation_step(batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Log each metric over the whole validation set, on all ranks, as `val/<name>`."""
        self.log_dict({f"val/{name}": value for name, value in self.scores().items()}, prog_bar=True)

    def on_test_epoch_end(self) -> None:
        """Log each metric over the whole test set, on all ranks, as `test/<name>`."""
        self.log_dict({f"test/{name}": value for name, value in self.scores().items()}, prog_bar=True)

    def scores(self) -> dict[str, Tensor]:
        """Return each metric over all batches since the last call, on all ranks, by its bare name."""
        if self.metrics is None:
            scores = {"loss": self._val_loss.compute().float()}
            self._val_loss.reset()
            return scores
        scores = self.metrics.compute()
        self.metrics.reset()
        return scores

    # -- the run -----------------------------------------------------------------------------------------------

    @property
    def progress(self) -> float:
        """Share of the run's optimizer steps that are done, in [0, 1]; 0 without a schedule or outside of a fit."""
        if not self.objective.scheduled or self._trainer is None:
            return 0.0
        return self._progress.of(self.trainer)

    @property
    def seed(self) -> int:
        """Seed of the losses' random choices in this step; 0 where there are none, or outside of training."""
        return 0 if not self.objective.uses_seed or self._trainer is None else seed_of_step(self.trainer)

    def total_steps(self) -> int:
        """Return the optimizer steps of the whole run.

        Raises:
            ConfigError: if the loader is endless and `max_steps` is not set.

        """
        return self._progress.steps(self.trainer)

    def setup(self, stage: str) -> None:
        """Move the teacher to the student's device, and install taps before a compiled student's first call."""
        self._progress = TrainingProgress()
        self._select_features()  # the teacher may have been used with another student since
        self._runner.open()
        if self.strategy is not None:
            self.strategy.setup(self.trainer)
        if self.teacher is not None:
            check_same_teacher(self.teacher)
            self.teacher.to(self.trainer.strategy.root_device)
        prepare_before_transfer(self, [self.teacher])

    def on_train_start(self) -> None:
        """Prepare to be killed more than once."""
        survive_kills(self.trainer)
        if self.teacher is not None:
            self.teacher.begin(self.student)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Let the teacher follow the student: before callbacks save a checkpoint of this step."""
        super().optimizer_step(*args, **kwargs)
        if self.teacher is not None:
            self.teacher.after_step(self.student)

    def on_train_end(self) -> None:
        """Check what the last step made of the student's weights."""
        check_weights(self.student)

    def teardown(self, stage: str) -> None:
        """Remove the taps, and move the teacher back to the CPU."""
        self.__dict__.pop(TRANSFER_HOOK, None)
        self.close()
        if self.teacher is not None:
            self.teacher.to("cpu")

    def close(self) -> None:
        """Remove the taps of compiled models; others are installed only during a forward pass."""
        self._runner.close()
        if self.teacher is not None:
            self.teacher.close()

    def configure_callbacks(self) -> list[Callback]:
        """Close the module after an exception too: a trainer calls no teardown then."""
        return [CloseOnException()]

    def configure_optimizers(self) -> Any:
        """Build the optimizer over student and projections, and the scheduler, stepped every step."""
        if self.objective.scheduled or self.strategy is not None:
            self.total_steps()  # fails here, not in the first step
        groups = parameter_groups(self.student, self.objective)
        return configure(
            self._make_optimizer, self._make_scheduler, groups, self.total_steps, f"val/{self.main_metric}"
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the student's class and configuration as plain data, so that the checkpoint alone can rebuild it."""
        student = getattr(self.student, "_orig_mod", self.student)
        config: Any = getattr(student, "config", None)
        if hasattr(config, "to_json_string"):
            plain = json.loads(config.to_json_string(use_diff=False))
            checkpoint["kd_student"] = {"class": type(student).__name__, "config": plain}
        if self.teacher is not None and (state := self.teacher.state_dict()):
            checkpoint["kd_teacher"] = state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load what changes in the teacher."""
        if self.teacher is not None and "kd_teacher" in checkpoint:
            self.teacher.load_state_dict(checkpoint["kd_teacher"])

    def extra_repr(self) -> str:
        """Name the teacher, which is no submodule, and the terms with their weights."""
        return f"teacher={describe_teacher(self.teacher)}, terms={describe_terms(self.objective)}"


TRANSFER_HOOK = "on_before_batch_transfer"


def prepare_before_transfer(module: LightningModule, teachers: Iterable[TeacherSource | None]) -> None:
    """Call `module.prepare` on training batches before they move to the device, if a teacher overrides `prepare`.

    Otherwise the hook is not there: Lightning warns of it wherever a data module is used.
    """
    if any(t is not None and type(t).prepare is not TeacherSource.prepare for t in teachers):
        object.__setattr__(module, TRANSFER_HOOK, partial(_prepare, module))


def _prepare(module: Any, batch: Batch, dataloader_idx: int) -> Batch:
    return module.prepare(batch) if module.trainer.training else batch


class CloseOnException(Callback):
    """Closes a module after an exception: a trainer calls no teardown then."""

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Remove the taps of compiled models."""
        pl_module.close()
