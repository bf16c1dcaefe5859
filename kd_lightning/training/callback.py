"""The callback that adds distillation to a LightningModule of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from kd_lightning.core.adapter import Adapter
from kd_lightning.core.batch import batch_size, sub_batch
from kd_lightning.core.errors import ConfigError, hint
from kd_lightning.core.types import Batch, LossReport
from kd_lightning.features import FeatureTap, model_info
from kd_lightning.objective import Objective
from kd_lightning.teachers import TeacherSource, as_teacher
from kd_lightning.training.callback_checkpoint import keep_out_of_checkpoints
from kd_lightning.training.callback_optimizer import joined
from kd_lightning.training.callback_patch import replaced
from kd_lightning.training.checks import (
    check_finite,
    check_not_shared,
    check_objective,
    check_same_teacher,
    check_trainable,
)
from kd_lightning.training.forward_counter import ForwardCounter
from kd_lightning.training.progress import TrainingProgress, terms_are_logged

NAME = "kd_objective"
"""Attribute of the user's module that holds the objective during a fit."""

PREFIX = "distillation"


class DistillationCallback(pl.Callback):
    """Adds an objective's terms to the loss that a LightningModule's own `training_step` returns.

    The module is not edited: during a fit its `training_step` and `configure_optimizers` are wrapped, and the student's
    features are collected in the forward pass that `training_step` makes anyway. Projections join the user's
    optimizer and, with their own state, the user's checkpoints, which the module alone still loads strictly.
    Logged are `distillation/loss`, `distillation/loss/<term>` and `distillation/weighted/<term>`; the user's loss is
    the term `task`. Gradient accumulation averages micro-batches, as without us. Trainers and modules of Lightning's
    older package, `pytorch_lightning`, will do as well.

    Args:
        teacher: a teacher source, or a model, which becomes a `LiveTeacher`.
        objective: the terms to add; it meets both models when a fit begins.
        student: attribute path of the student in the user's module; `""` is the module itself.
        adapter: its `outputs` say what the student's outputs are called, where they are neither tensor nor mapping.
        task_weight: weight of the loss that `training_step` returns.

    Raises:
        ConfigError: for a module with manual optimization, a wrong path, a `training_step` that does not run the
            student exactly once, or an optimizer or scheduler that the projections cannot join.
        AddressError, MatchError: for a term that does not fit the models.

    Example:
        >>> from kd_lightning import Match, Term, losses
        >>> terms = {"logits": Term(Match("logits", "logits"), losses.SoftTarget(temperature=2.0))}
        >>> callback = DistillationCallback(nn.Linear(4, 2), Objective(terms), student="net", task_weight=0.5)
        >>> trainer = pl.Trainer(callbacks=[callback], logger=False, enable_checkpointing=False)

    """

    def __init__(
        self,
        teacher: TeacherSource | nn.Module,
        objective: Objective,
        student: str = "model",
        adapter: Adapter | None = None,
        task_weight: float = 1.0,
    ) -> None:
        check_objective(objective)
        if "task" in objective.declared:
            raise ConfigError("No term may be named 'task': that is what the module's own loss is called in the logs.")
        if not isinstance(task_weight, int | float) or not abs(task_weight) < float("inf"):
            raise ConfigError(f"Expected argument `task_weight` to be a finite number but got {task_weight!r}.")
        self._given = teacher
        self.objective = objective
        self.student = student
        self.adapter = adapter
        self.task_weight = task_weight
        self._teacher: TeacherSource | None = None
        self._met: nn.Module | None = None
        self._undo: list[Callable[[], object]] = []

    # -- coming and going --------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Move in before optimizers, wrappers and checkpoints are made."""
        if stage != "fit":
            return
        self._leave()
        student = _student(pl_module, self.student)
        _check_host(pl_module)
        self._meet(student)
        self._progress = TrainingProgress()
        teacher = self.teacher
        check_same_teacher(teacher)
        teacher.to(trainer.strategy.root_device)
        try:
            self._move_in(pl_module, student)
        except BaseException:
            self._leave()
            raise

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the module and both models as they were found."""
        self._leave()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave after an exception too, when a trainer calls no teardown."""
        self._leave()

    @property
    def teacher(self) -> TeacherSource:
        """The teacher source."""
        if self._teacher is None:
            self._teacher = as_teacher(self._given)
        return self._teacher

    def _meet(self, student: nn.Module) -> None:
        """Bind the objective to the student, once: a second fit goes on with its trained projections."""
        check_not_shared(student, self._given)
        check_trainable(student)
        self._outputs = self.adapter.outputs if self.adapter is not None else None
        if self._met is not student:
            info = model_info(student, has_outputs=self._outputs is not None)
            self.objective = self.objective.bind(info, self.teacher.info)
            self._met = student
        self.teacher.ask(self.objective.teacher_addresses)

    def _move_in(self, module: pl.LightningModule, student: nn.Module) -> None:
        self._tap = FeatureTap(student, self.objective.student_addresses, self._outputs)
        self._passes = ForwardCounter(student)
        self._undo.append(self._passes.close)
        if hasattr(student, "_orig_mod"):  # taps that come after a compiled model's first call are never seen
            self._tap.__enter__()
            self._undo.append(lambda: self._tap.__exit__(None, None, None))
        module.add_module(NAME, self.objective)
        self._undo.append(lambda: module._modules.pop(NAME, None))
        self._undo.append(keep_out_of_checkpoints(module, NAME))
        self._undo.append(replaced(module, "training_step", self._training_step(module)))
        self._undo.append(replaced(module, "configure_optimizers", joined(module.configure_optimizers, self.objective)))

    def _leave(self) -> None:
        while self._undo:
            self._undo.pop()()
        if self._teacher is not None:
            self._teacher.close()
            self._teacher.to("cpu")

    # -- one batch ---------------------------------------------------------------------------------------------

    def _training_step(self, module: pl.LightningModule) -> Callable[..., Any]:
        step = module.training_step

        def training_step(*args: Any, **kwargs: Any) -> Any:
            batch = _as_it_came(args[0] if args else kwargs["batch"])  # steps may take labels out of it
            teacher = self.teacher(batch) if self.objective.teacher_addresses else {}
            self._passes.count = 0
            with self._tap:
                output = step(*args, **kwargs)
                if output is None:
                    return None  # the user skips this batch
                self._passes.check()
                student = self._tap.take()
            terms = self.objective(student, teacher, batch, self._done(module), across_ranks=True)
            report = self._with_task(_loss_of(output), terms)
            check_finite(report, module.trainer)
            logs = report.logs(PREFIX, terms_are_logged(module.trainer))
            module.log_dict(logs, batch_size=batch_size(sub_batch(batch, "student")))
            return {**output, "loss": report.total} if isinstance(output, Mapping) else report.total

        return training_step

    def _with_task(self, loss: Tensor, terms: LossReport) -> LossReport:
        return LossReport(
            loss * self.task_weight + terms.total,
            {"task": loss, **terms.parts},
            {"task": self.task_weight, **terms.weights},
        )

    def _done(self, module: pl.LightningModule) -> float:
        return self._progress.of(module.trainer) if self.objective.scheduled else 0.0

    # -- checkpoints -------------------------------------------------------------------------------------------

    @property
    def state_key(self) -> str:
        """What the callback's state is called in checkpoints."""
        return f"{type(self).__qualname__}[student={self.student!r}]"

    def state_dict(self) -> dict[str, Any]:
        """Return the projections' weights, as part of the trainer's checkpoint."""
        return {"objective": self.objective.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the projections' weights; the objective has met its models by then."""
        with torch.no_grad():
            self.objective.load_state_dict(state_dict["objective"])


def _check_host(module: pl.LightningModule) -> None:
    name = type(module).__name__
    if not module.automatic_optimization:
        raise ConfigError(
            f"{name} optimizes by hand (automatic_optimization=False), so there is no loss to add terms to. Call the "
            "objective in its training_step: objective(student_features, teacher(batch), batch).total."
        )
    if NAME in module._modules:
        raise ConfigError(f"{name} has a DistillationCallback already. Put all terms into one objective.")


def _student(module: pl.LightningModule, path: str) -> nn.Module:
    try:
        found: Any = module
        for name in filter(None, path.split(".")):
            found = getattr(found, name)
    except AttributeError:
        found = None
    if isinstance(found, nn.Module):
        return found
    paths = [name for name, _ in module.named_modules() if name and name.count(".") < 2]
    raise ConfigError(f"{type(module).__name__} has no model at student='{path}'. {hint(path, paths)}")


def _as_it_came(batch: Batch) -> Batch:
    if isinstance(batch, Mapping):
        return dict(batch)
    return list(batch) if isinstance(batch, list) else batch


def _loss_of(output: Any) -> Tensor:
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(output).__name__
        raise ConfigError(f"Expected training_step to return a scalar loss or a dict with 'loss', but got {got}.")
    return loss
