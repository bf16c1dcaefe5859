"""The callback that adds distillation to a LightningModule of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from kd_lightning.core.adapter import Adapter
from kd_lightning.core.arguments import check_finite_number, check_model
from kd_lightning.core.batch import batch_size, sub_batch
from kd_lightning.core.errors import ConfigError
from kd_lightning.core.types import Batch, LossReport, Rows
from kd_lightning.features import FeatureTap, model_info
from kd_lightning.objective import Objective
from kd_lightning.teachers import TeacherSource, as_teacher
from kd_lightning.training.callback_module import check_module, find_student, hide_from_state_dict, replace_method
from kd_lightning.training.callback_optimizer import ATTRIBUTE, with_objective
from kd_lightning.training.checks import (
    check_adapter,
    check_finite,
    check_has_gradient,
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
from kd_lightning.training.progress import TrainingProgress, seed_of_step, terms_are_logged
from kd_lightning.training.resuming import survive_kills
from kd_lightning.training.strategies import Strategy
from kd_lightning.training.strategies.base import strategy_applied, with_graph


class DistillationCallback(pl.Callback):
    """Adds an objective's terms to the loss that a LightningModule's own `training_step` returns.

    The module is not edited: during a fit its `training_step` and `configure_optimizers` are wrapped, and the student's
    features are collected in the forward pass that `training_step` makes anyway. Projections join the user's
    optimizer and, with their own state, the user's checkpoints, which the module alone still loads strictly.
    Logged are `distillation/loss`, `distillation/loss/<term>` and `distillation/weighted/<term>`; the user's loss is
    the term `task`. Gradient accumulation averages micro-batches, as without the callback. Trainers and modules of
    Lightning's older package, `pytorch_lightning`, work too.

    Args:
        teacher: a teacher source, or a model, which becomes a `LiveTeacher`.
        objective: the terms to add; it is bound to both models when a fit begins.
        student: attribute path of the student in the user's module; `""` is the module itself.
        adapter: its `outputs` names the student's outputs, where they are neither a tensor nor a mapping.
        task_weight: weight of the loss that `training_step` returns.
        rows: the ids and labels of all training rows, or a function that returns them, for losses that ask for them.
        strategy: what changes the student's forward pass in training steps, such as `strategies.Theseus`.

    Raises:
        ConfigError: at construction if a term is named `task` or the weight is not finite; when a fit begins if the
            module optimizes manually, has no model at `student`, shares parameters with the teacher, or has an
            optimizer or scheduler that the projections cannot join; in a step that does not run the student exactly
            once or returns no scalar loss.
        AddressError, MatchError: when a fit begins if a term does not fit the models.

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
        rows: Rows | None = None,
        strategy: Strategy | None = None,
    ) -> None:
        check_strategy(strategy, compile=False)
        if not isinstance(teacher, TeacherSource):
            check_model("teacher", teacher)
        if not isinstance(student, str):
            raise ConfigError(
                f"Expected argument `student` to be the attribute path of a model, such as 'model', got {student!r}."
            )
        check_adapter(adapter)
        check_objective(objective)
        if "task" in objective.declared:
            raise ConfigError("No term may be named 'task': that is what the module's own loss is called in the logs.")
        check_finite_number("task_weight", task_weight)
        self._given_teacher = teacher
        self._teacher: TeacherSource | None = None
        self.objective = objective
        self.student = student
        self.adapter = adapter
        self.task_weight = task_weight
        self._rows = rows
        self.strategy = strategy
        self._bound_student: nn.Module | None = None
        self._installed = ExitStack()
        self._forwards = 0

    @property
    def teacher(self) -> TeacherSource:
        """The teacher source; a model becomes one, and is frozen, when it is first needed."""
        if self._teacher is None:
            self._teacher = as_teacher(self._given_teacher)
        return self._teacher

    def __repr__(self) -> str:
        """Name the teacher, the terms with their weights, and the student's path, in one line."""
        teacher, terms = describe_teacher(self._teacher or self._given_teacher), describe_terms(self.objective)
        return f"{type(self).__name__}(teacher={teacher}, terms={terms}, student={self.student!r})"

    # -- install and uninstall ---------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Bind the objective and install the callback, before optimizers, wrappers and checkpoints are made."""
        if stage != "fit":
            return
        self._uninstall()
        student = find_student(pl_module, self.student)
        check_module(pl_module)
        self._bind(student)
        self._progress = TrainingProgress()
        check_same_teacher(self.teacher)
        self.teacher.to(trainer.strategy.root_device)
        if self.strategy is not None:
            self.strategy.setup(trainer)
        try:
            self._install(pl_module, student)
        except BaseException:
            self._uninstall()
            raise

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restore the module and both models."""
        self._uninstall()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prepare to be killed more than once."""
        survive_kills(trainer)
        if self._bound_student is not None:
            self.teacher.begin(self._bound_student)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check what the last step made of the student's weights."""
        if self._bound_student is not None:
            check_weights(self._bound_student)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restore them after an exception too: a trainer calls no teardown then."""
        self._uninstall()

    def _bind(self, student: nn.Module) -> None:
        """Bind the objective to the student, once: a second fit continues with the trained projections."""
        check_not_shared(student, self._given_teacher)  # before the teacher is frozen
        if self.teacher.follows_student and self._bound_student is not student:
            self.teacher.attach(student)
        check_trainable(student)
        self._outputs = self.adapter.outputs if self.adapter is not None else None
        if self._bound_student is not student:
            info = model_info(student, has_outputs=self._outputs is not None)
            self.objective = self.objective.bind(info, self.teacher.info, self._rows)
            check_teaches_others(self.teacher, self.objective)
            self._bound_student = student
        self.teacher.ask(self.objective.teacher_addresses)
        if self.strategy is not None:
            check_strategy(self.strategy, compile=hasattr(student, "_orig_mod"))
            self.strategy.prepare(student, self.teacher, self.objective.student_addresses)

    def _install(self, module: pl.LightningModule, student: nn.Module) -> None:
        undo = self._installed.callback
        own = self.objective.teacher_addresses if self.teacher.sees_features else ()
        addresses = tuple(dict.fromkeys([*self.objective.student_addresses, *own]))
        self._tap = FeatureTap(student, addresses, self._outputs)
        undo(student.register_forward_pre_hook(self._count_forward).remove)
        if hasattr(student, "_orig_mod"):  # a compiled model ignores hooks that are installed after its first call
            self._installed.enter_context(self._tap)
        module.add_module(ATTRIBUTE, self.objective)
        undo(module._modules.pop, ATTRIBUTE, None)
        undo(hide_from_state_dict(module, ATTRIBUTE))
        configure = with_objective(module.configure_optimizers, self.objective)
        undo(replace_method(module, "configure_optimizers", configure))
        undo(replace_method(module, "training_step", self._with_distillation(module)))
        if self.teacher.follows_student:
            undo(replace_method(module, "optimizer_step", self._followed(module, student)))

    def _uninstall(self) -> None:
        self._installed.close()
        if self._teacher is not None:
            self._teacher.close()
            self._teacher.to("cpu")

    # -- one batch ---------------------------------------------------------------------------------------------

    def _with_distillation(self, module: pl.LightningModule) -> Callable[..., Any]:
        """Return a `training_step` that adds the objective to the loss of the module's own."""
        step = module.training_step

        def training_step(*args: Any, **kwargs: Any) -> Any:
            batch = _shallow_copy(args[0] if args else kwargs["batch"])  # a step may pop labels from its batch
            first = self.objective.teacher_addresses and not self.teacher.sees_features
            teacher = self.teacher(batch) if first else {}
            self._forwards = 0
            with self._tap, strategy_applied(self.strategy, self._progress, module.trainer):
                output = step(*args, **kwargs)
                if output is None:
                    return None  # the user skips this batch
                self._check_forwards()
                student = self._tap.take()
            if self.teacher.sees_features:
                self.teacher.see(student)
                teacher = self.teacher(batch)
            if self.strategy is None:
                check_has_gradient(student)
            progress = self._progress.of(module.trainer) if self.objective.scheduled else 0.0
            seed = seed_of_step(module.trainer) if self.objective.uses_seed else 0
            terms = self.objective(student, teacher, batch, progress, across_ranks=True, seed=seed)
            if self.strategy is None:
                check_terms_have_gradient(terms)
            task = _scalar_loss(output)
            report = LossReport(
                task * self.task_weight + terms.total,
                {"task": task, **terms.parts},
                {"task": self.task_weight, **terms.weights},
                terms.diagnostics,
            )
            report = with_graph(self.strategy, report)
            check_finite(report, module.trainer, batch, self.teacher)
            logs = report.logs("distillation", terms_are_logged(module.trainer))
            module.log_dict(logs, batch_size=batch_size(sub_batch(batch, "student")))
            return {**output, "loss": report.total} if isinstance(output, Mapping) else report.total

        return training_step

    def _followed(self, module: pl.LightningModule, student: nn.Module) -> Callable[..., None]:
        """Return an `optimizer_step` after which the teacher follows the student."""
        step = module.optimizer_step

        def optimizer_step(*args: Any, **kwargs: Any) -> None:
            step(*args, **kwargs)
            self.teacher.after_step(student)

        return optimizer_step

    def _count_forward(self, *_: Any) -> None:
        self._forwards += 1

    def _check_forwards(self) -> None:
        """Raise ConfigError unless the student ran once: of several passes it is not known whose features to match."""
        if self._forwards != 1:
            name = type(getattr(self._bound_student, "_orig_mod", self._bound_student)).__name__
            raise ConfigError(
                f"training_step ran the student ({name}) {self._forwards} times, and distillation needs the features "
                "of exactly one forward pass. Point `student` at the module that runs once, or call the objective "
                "in training_step yourself."
            )

    # -- checkpoints -------------------------------------------------------------------------------------------

    @property
    def state_key(self) -> str:
        """What the callback's state is called in checkpoints."""
        return f"{type(self).__qualname__}[student={self.student!r}]"

    def state_dict(self) -> dict[str, Any]:
        """Return the projections' weights, and what changes in the teacher, as part of the trainer's checkpoint."""
        state = {"objective": self.objective.state_dict()}
        return state | ({"teacher": followed} if (followed := self.teacher.state_dict()) else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the projections' weights; `setup` has bound the objective by then."""
        with torch.no_grad():
            self.objective.load_state_dict(state_dict["objective"])
            if "teacher" in state_dict:
                self.teacher.load_state_dict(state_dict["teacher"])


def _shallow_copy(batch: Batch) -> Batch:
    if isinstance(batch, Mapping):
        return dict(batch)
    return list(batch) if isinstance(batch, list) else batch


def _scalar_loss(output: Any) -> Tensor:
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(output).__name__
        raise ConfigError(f"Expected training_step to return a scalar loss or a dict with 'loss', but got {got}.")
    return loss
