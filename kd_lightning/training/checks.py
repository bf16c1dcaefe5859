"""Checks of teacher, student and arguments before the first step, and of the loss in each."""

from __future__ import annotations

import math
from collections.abc import Mapping

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn

from kd_lightning.core.adapter import Adapter
from kd_lightning.core.errors import ConfigError, MatchError, NonFiniteLossError
from kd_lightning.core.types import Batch, Features, LossReport
from kd_lightning.objective import Objective
from kd_lightning.teachers import TeacherSource
from kd_lightning.training.strategies import Strategy


def check_not_shared(student: nn.Module, teacher: TeacherSource | nn.Module | None) -> None:
    """Refuse a teacher that shares weights with the student: it would be trained along, or freeze the student.

    Weights are shared where they lie in the same memory, as in `nn.Parameter(teacher.weight.data)`; and so are buffers,
    such as a batch norm's statistics.

    Raises:
        ConfigError: if they share a parameter or a buffer.

    """
    models = teacher.models() if isinstance(teacher, TeacherSource) else [teacher]
    teachers = {_place(x) for model in models if isinstance(model, nn.Module) for x in _tensors(model).values()}
    for name, tensor in _tensors(student).items():
        if _place(tensor) in teachers - {None}:
            own = isinstance(tensor, nn.Parameter)
            frozen = own and not tensor.requires_grad
            advice = " The student is frozen now: call student.requires_grad_(True)." if frozen else ""
            raise ConfigError(
                f"Student and teacher share the {'parameter' if own else 'buffer'} '{name}'. Give one of them "
                f"copy.deepcopy(model).{advice}"
            )


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _place(tensor: Tensor) -> tuple[torch.device, int] | int | None:
    """Return what two tensors have in common that share memory; None where there is none to share."""
    try:
        start = tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # no storage, as of lazy or sparse parameters
        return id(tensor)
    return (tensor.device, start) if start else None


def check_trainable(student: nn.Module) -> None:
    """Refuse a student without trainable parameters, such as a copy of a frozen teacher.

    Raises:
        ConfigError: if the student has parameters and all are frozen.

    """
    trainable = [p.requires_grad for p in student.parameters()]
    if trainable and not any(trainable):
        raise ConfigError(
            "The student has no trainable parameter; a copy of a teacher is frozen like the teacher. "
            "Call student.requires_grad_(True) first."
        )


def check_same_teacher(teacher: TeacherSource) -> None:
    """Refuse different teachers on different ranks: nothing synchronises a model the trainer does not know of.

    Raises:
        ConfigError: on every rank, if their teachers' weights or buffers differ.

    """
    if teacher.follows_student or not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    tensors = [x for model in teacher.models() for x in (*model.parameters(), *model.buffers())]
    own = [float(x.detach().double().sum()).hex() for x in tensors]  # as text, in which not-a-number equals itself
    all_ranks: list[list[str] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(all_ranks, own)
    different = [rank for rank, other in enumerate(all_ranks) if other != own]
    if different:
        raise ConfigError(
            f"The teacher's weights on rank {dist.get_rank()} differ from those on rank {different[0]}. "
            "Load the same file on every rank, or build it under the same seed."
        )


def check_objective(objective: object) -> None:
    """Refuse what is not an Objective, such as a mapping of terms.

    Raises:
        ConfigError: for any other type.

    """
    if not isinstance(objective, Objective):
        got = type(objective).__name__
        raise ConfigError(f"Expected argument `objective` to be an Objective, such as Objective(terms), but got {got}.")


def check_factories(optimizer: object, scheduler: object) -> None:
    """Refuse an optimizer or scheduler instance where a function that makes one is needed.

    Raises:
        ConfigError: if one of them is neither None nor callable.

    """
    examples = {
        "optimizer": (optimizer, "functools.partial(torch.optim.AdamW, lr=1e-4)"),
        "scheduler": (scheduler, "functools.partial(kd_lightning.training.optim.linear_warmup, warmup=0.1)"),
    }
    for name, (factory, example) in examples.items():
        if factory is not None and not callable(factory):
            got = type(factory).__name__
            raise ConfigError(f"Expected argument `{name}` to be a function, such as {example}, but got {got}.")


def check_strategy(strategy: object, compile: bool) -> None:
    """Refuse what is no strategy, and one whose student is compiled: each step may run other modules.

    Raises:
        ConfigError: if it is something else than a Strategy or None, or `compile` is true beside it.

    """
    if strategy is not None and not isinstance(strategy, Strategy):
        got = type(strategy).__name__
        raise ConfigError(f"Expected argument `strategy` to be a Strategy, such as LayerDrop(0.1), but got {got}.")
    if strategy is not None and compile:
        raise ConfigError(
            f"{type(strategy).__name__} runs other modules in every step, and a compiled student would be compiled "
            "again for each choice: leave compile out."
        )


def check_has_gradient(features: Features) -> None:
    """Refuse a student whose features cannot teach it anything, because it ran under `torch.no_grad()`.

    Raises:
        ConfigError: if gradients are computed, and no feature of the student has one.

    """
    if features and torch.is_grad_enabled() and not any(feature.requires_grad for feature in features.values()):
        raise ConfigError(
            "The student's features have no gradient, so the terms would train nothing: "
            "training_step must not run it under torch.no_grad() or detach what it gets."
        )


def check_weights(student: nn.Module) -> None:
    """Refuse a student whose last step made weights that are not finite: no later loss would show it.

    Raises:
        NonFiniteLossError: naming a parameter.

    """
    wrong = next((name for name, p in student.named_parameters() if not torch.isfinite(p).all()), None)
    if wrong is not None:
        raise NonFiniteLossError(
            f"The student's weights became non-finite in the last step, in '{wrong}'. Lower the learning rate, or set "
            "trainer.gradient_clip_val."
        )


def check_terms_have_gradient(report: LossReport) -> None:
    """Refuse an objective whose terms train nothing.

    Raises:
        ConfigError: if gradients are computed, and no term has one.

    """
    if torch.is_grad_enabled() and not report.total.requires_grad:
        raise ConfigError(
            f"The loss of {', '.join(report.parts)} has no gradient, so it would train nothing: a loss must not detach "
            "the student's tensor, or compute under torch.no_grad()."
        )


def check_adapter(adapter: object) -> None:
    """Refuse what is not an Adapter.

    Raises:
        ConfigError: for any other type than Adapter and None.

    """
    if adapter is not None and not isinstance(adapter, Adapter):
        got = type(adapter).__name__
        raise ConfigError(f"Expected argument `adapter` to be an Adapter(inputs=…, outputs=…) but got {got}.")


def check_finite(
    report: LossReport, trainer: pl.Trainer, batch: Batch | None = None, teacher: TeacherSource | None = None
) -> None:
    """Stop at a loss that is not finite; on a GPU, where the check synchronises, only at logging steps.

    Raises:
        NonFiniteLossError: if the total is infinite or not-a-number; names the step and the terms.

    """
    on_device = report.total.device.type != "cpu"
    every = getattr(trainer, "log_every_n_steps", 1)
    if on_device and trainer.global_step % max(every, 1):
        return
    if not torch.isfinite(report.total):
        names = report.non_finite() or list(report.parts)
        raise NonFiniteLossError(
            f"The loss became non-finite at step {trainer.global_step}, in term {', '.join(names)}. "
            + _cause(report, batch, teacher)
        )


def _cause(report: LossReport, batch: Batch | None, teacher: TeacherSource | None) -> str:
    """Say which side is not finite: a weight, the batch, the teacher, or else the student."""
    wrong = next((name for name, weight in report.weights.items() if not math.isfinite(weight)), None)
    if wrong is not None:
        return f"The weight of '{wrong}' is {report.weights[wrong]}: look at its schedule."
    if (place := _non_finite(batch)) is not None:
        return f"The batch is not finite itself, at {place or 'its tensor'}: look at the data."
    try:
        answers = teacher(batch) if teacher is not None and batch is not None else {}
    except Exception:  # of a batch that the step has changed, it is not known
        answers = {}
    if (place := _non_finite(answers)) is not None:
        return f"The teacher's {place} is not finite: look at its weights, its precision, or its cache."
    return (
        "The teacher and the batch are finite. Lower the learning rate or the term's weight, or set "
        "trainer.gradient_clip_val."
    )


def _non_finite(value: object, place: str = "") -> str | None:
    """Return where in nested mappings and sequences a tensor is not finite; None if all are."""
    if isinstance(value, Tensor):
        return place if value.is_floating_point() and not torch.isfinite(value).all() else None
    parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    return next((found for key, part in parts if (found := _non_finite(part, f"'{key}'")) is not None), None)


def check_teaches_others(teacher: TeacherSource | None, objective: Objective) -> None:
    """Refuse a term by which features teach themselves, where the teacher's are the student's own of the same pass.

    Raises:
        MatchError: if there is one whose weight is not 0.

    """
    if teacher is None or not teacher.sees_features:
        return
    for name, term in objective.named_terms().items():
        match, counts = term.match, term.weight != 0 or term.schedule is not None
        if counts and term.sample_weight is not None and term.sample_weight.compares:
            rule = type(term.sample_weight).__name__
            raise MatchError(
                f"Term '{name}' ({match}): {rule} weighs rows by how far the student is from its teacher, and a "
                f"{type(teacher).__name__} is the student: take Entropy or Confidence."
            )
        if counts and match.teacher is not None and match.teacher_addresses == match.student_addresses:
            raise MatchError(
                f"Term '{name}' ({match}): features cannot teach themselves, and a {type(teacher).__name__} has the "
                "student's own. Match an earlier layer with a later one, such as Match('hidden.1', 'hidden.2'), or "
                "give this term the weight 0."
            )
