"""The one LightningModule: a frozen teacher, a trainable student, and the objective between them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection

from kd_lightning.core.adapter import Adapter
from kd_lightning.core.batch import batch_size, sub_batch
from kd_lightning.core.types import Batch, Features, LossReport
from kd_lightning.features.runner import Runner
from kd_lightning.metrics import Scores
from kd_lightning.objective import Objective
from kd_lightning.teachers import TeacherSource, as_teacher
from kd_lightning.training.checks import (
    check_factory,
    check_finite,
    check_not_shared,
    check_objective,
    check_same_teacher,
    check_trainable,
)
from kd_lightning.training.optim import (
    OptimizerFactory,
    SchedulerFactory,
    configure,
    default_optimizer,
    parameter_groups,
)
from kd_lightning.training.progress import TrainingProgress, terms_are_logged


class DistillationModule(LightningModule):
    """Trains a student under an objective, with a teacher as its guest.

    The student stays the `nn.Module` it was; the teacher is frozen and not part of this module: in no checkpoint, no
    optimizer, no gradient bucket. Projections are built here, from the models' structure.

    Args:
        student: the model to train. One that is wholly in eval mode, as `from_pretrained` returns it, is set to train.
        teacher: a teacher source, a model (which becomes a `LiveTeacher`), or None where no term asks a teacher.
        objective: the named, weighted terms; it meets the two models here.
        optimizer: `(parameter groups) -> Optimizer`, such as `functools.partial(torch.optim.AdamW, lr=1e-4)`.
        scheduler: `(optimizer) -> scheduler`, stepped every step; `total_steps`, `num_training_steps` or `T_max` is
            filled in where it has such an argument. `ReduceLROnPlateau` watches the first metric, after each epoch.
        metrics: metrics by name for validation, updated with the student's logits and the batch's labels; logged as
            `val/<name>`. None: the objective itself is evaluated and logged as `val/loss`.
        adapter: for a student that does not follow the usual forms.
        compile: run the student and its taps as one compiled graph.

    Raises:
        AddressError, MatchError: where a term does not fit the models.
        ConfigError: where teacher and student share parameters, or nothing of the student can be trained.

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
    ) -> None:
        super().__init__()
        check_factory(optimizer, "optimizer", "functools.partial(torch.optim.AdamW, lr=1e-4)")
        check_factory(
            scheduler, "scheduler", "functools.partial(kd_lightning.training.optim.linear_warmup, warmup=0.1)"
        )
        check_objective(objective)
        check_not_shared(student, teacher)  # before the teacher is frozen
        check_trainable(student)
        self.teacher = as_teacher(teacher) if teacher is not None else None
        self.student = student if any(m.training for m in student.modules()) else student.train()
        self._runner = Runner(student, adapter, compile)
        self.objective = objective.bind(self._runner.info, self.teacher.info if self.teacher else None)
        self.metrics = Scores(metrics) if metrics else None
        self.main_metric = self.metrics.names[0] if self.metrics is not None else "loss"
        self.main_best = self.metrics.best[self.main_metric] if self.metrics is not None else 1.0
        self._val_loss = MeanMetric()  # weighs batches by rows, which `self.log(sync_dist=True)` does only roughly
        self._make_optimizer = optimizer or default_optimizer
        self._make_scheduler = scheduler
        self._progress = TrainingProgress()
        self._ask()

    def _ask(self) -> None:
        wanted = dict.fromkeys(self.objective.student_addresses)
        wanted |= dict.fromkeys(self.metrics.addresses if self.metrics is not None else ())
        self._runner.ask(list(wanted))
        if self.teacher is not None:
            self.teacher.ask(self.objective.teacher_addresses)

    # -- one batch ---------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compare student and teacher on one batch; logs `train/loss`, `train/loss/<term>`, `train/weighted/<term>`.

        The terms are logged when loggers write (`Trainer(log_every_n_steps=…)`) and at an epoch's first step.
        """
        report = self.compare(batch, across_ranks=True)
        check_finite(report, self.trainer)
        self.log_dict(
            report.logs("train", terms_are_logged(self.trainer)), batch_size=batch_size(sub_batch(batch, "student"))
        )
        return report.total

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch with what its teacher can do for it before it leaves the host."""
        return self.teacher.prepare(batch) if self.teacher is not None else batch

    def compare(self, batch: Batch, across_ranks: bool = False) -> LossReport:
        """Evaluate the objective on one batch."""
        teacher = self.teacher(batch) if self.teacher is not None and self.objective.teacher_addresses else {}
        return self.objective(self.forward(batch), teacher, batch, self.progress, across_ranks)

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
        """Return each metric over what was seen since the last call, on all ranks, by its bare name."""
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
        """Share of the run's optimizer steps that are done, in [0, 1]; 0 where no schedule asks or outside of a fit."""
        if not self.objective.scheduled or self._trainer is None:
            return 0.0
        return self._progress.of(self.trainer)

    def total_steps(self) -> int:
        """Return the optimizer steps of the whole run.

        Raises:
            ConfigError: for an endless loader without `max_steps`.

        """
        return self._progress.steps(self.trainer)

    def setup(self, stage: str) -> None:
        """Bring the teacher to the student's device, and put taps on before a compiled student's first call."""
        self._progress = TrainingProgress()
        self._ask()  # the teacher may have worked for another student since
        self._runner.open()
        if self.teacher is not None:
            check_same_teacher(self.teacher)
            self.teacher.to(self.trainer.strategy.root_device)
        prepare_on_host(self, [self.teacher])

    def teardown(self, stage: str) -> None:
        """Leave both models as they were found."""
        self.__dict__.pop(HOST_HOOK, None)
        self.close()
        if self.teacher is not None:
            self.teacher.to("cpu")

    def close(self) -> None:
        """Take the taps of compiled models off; others are on only while a model runs."""
        self._runner.close()
        if self.teacher is not None:
            self.teacher.close()

    def configure_callbacks(self) -> list[Callback]:
        """Close after an exception too, when a trainer calls no teardown."""
        return [CloseOnException()]

    def configure_optimizers(self) -> Any:
        """Build the optimizer over student and projections, and the scheduler, stepped every step."""
        if self.objective.scheduled:
            self.total_steps()  # fails here, not in the first step
        groups = parameter_groups(self.student, self.objective)
        return configure(
            self._make_optimizer, self._make_scheduler, groups, self.total_steps, f"val/{self.main_metric}"
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what the student is, as plain data, so that it can be rebuilt from the checkpoint alone."""
        student = getattr(self.student, "_orig_mod", self.student)
        config: Any = getattr(student, "config", None)
        if hasattr(config, "to_json_string"):
            plain = json.loads(config.to_json_string(use_diff=False))
            checkpoint["kd_student"] = {"class": type(student).__name__, "config": plain}


HOST_HOOK = "on_before_batch_transfer"


def prepare_on_host(module: DistillationModule | LightningModule, teachers: Iterable[TeacherSource | None]) -> None:
    """Let `module.prepare` see training batches before they move, where a teacher has something to prepare.

    Nowhere else: Lightning warns of the hook wherever a data module is used.
    """
    if any(t is not None and type(t).prepare is not TeacherSource.prepare for t in teachers):
        object.__setattr__(module, HOST_HOOK, partial(_on_host, module))


def _on_host(module: Any, batch: Batch, dataloader_idx: int) -> Batch:
    return module.prepare(batch) if module.trainer.training else batch


class CloseOnException(Callback):
    """Closes a module after an exception, when a trainer calls no teardown."""

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Take standing taps off the models."""
        pl_module.close()
