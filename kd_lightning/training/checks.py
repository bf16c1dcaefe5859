"""Checks on teacher and student that run before the first step."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn

from kd_lightning.core.errors import ConfigError, NonFiniteLossError
from kd_lightning.core.types import LossReport
from kd_lightning.objective import Objective
from kd_lightning.teachers import TeacherSource


def check_not_shared(student: nn.Module, teacher: TeacherSource | nn.Module | None) -> None:
    """Refuse a teacher that shares parameters with the student: freezing it would freeze the student.

    Raises:
        ConfigError: naming a shared parameter, and the remedy.

    """
    models = teacher.models() if isinstance(teacher, TeacherSource) else [teacher]
    taught = {id(p) for model in models if isinstance(model, nn.Module) for p in model.parameters()}
    for name, parameter in student.named_parameters():
        if id(parameter) in taught:
            frozen = (
                "" if parameter.requires_grad else " It is frozen by now: thaw the student with requires_grad_(True)."
            )
            raise ConfigError(
                f"Student and teacher share the parameter '{name}'. Give one of them copy.deepcopy(model).{frozen}"
            )


def check_trainable(student: nn.Module) -> None:
    """Refuse a student that is frozen altogether, as a copy of a teacher is.

    Raises:
        ConfigError: with the remedy.

    """
    trainable = [p.requires_grad for p in student.parameters()]
    if trainable and not any(trainable):
        raise ConfigError(
            "The student has no trainable parameter; a copy of a teacher is frozen like the teacher. "
            "Call student.requires_grad_(True) first."
        )


def check_same_teacher(teacher: TeacherSource) -> None:
    """Refuse ranks that hold different teachers: nothing synchronises a model the trainer does not see.

    Raises:
        ConfigError: on every rank, if their teachers' weights or buffers differ.

    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    own = [_sum(x) for model in teacher.models() for x in (*model.parameters(), *model.buffers())]
    theirs: list[list[str] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(theirs, own)
    different = [rank for rank, other in enumerate(theirs) if other != own]
    if different:
        raise ConfigError(
            f"The teacher's weights on rank {dist.get_rank()} differ from those on rank {different[0]}. "
            "Load the same file on every rank, or build it under the same seed."
        )


def _sum(x: Tensor) -> str:
    return float(x.detach().double().sum()).hex()  # as text, so that not-a-number equals itself


def check_objective(objective: object) -> None:
    """Refuse what is no objective, such as the terms themselves.

    Raises:
        ConfigError: with what to write.

    """
    if not isinstance(objective, Objective):
        got = type(objective).__name__
        raise ConfigError(f"Expected argument `objective` to be an Objective, such as Objective(terms), but got {got}.")


def check_factory(factory: object, name: str, example: str) -> None:
    """Refuse a finished optimizer or scheduler where the way to make one is needed.

    Raises:
        ConfigError: with an example of what to give.

    """
    if factory is not None and not callable(factory):
        got = type(factory).__name__
        raise ConfigError(f"Expected argument `{name}` to be a function, such as {example}, but got {got}.")


def check_finite(report: LossReport, trainer: pl.Trainer) -> None:
    """Stop at a non-finite term; where looking would stall the device, only at logging steps.

    Raises:
        NonFiniteLossError: naming the step and the terms.

    """
    on_device = report.total.device.type != "cpu"
    every = getattr(trainer, "log_every_n_steps", 1)
    if on_device and trainer.global_step % max(every, 1):
        return
    if not torch.isfinite(report.total):
        names = report.non_finite() or list(report.parts)
        raise NonFiniteLossError(
            f"The loss became non-finite at step {trainer.global_step}, in term {', '.join(names)}. "
            "Lower the learning rate or the term's weight, or set trainer.gradient_clip_val."
        )
