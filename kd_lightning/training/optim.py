"""Optimizers and schedulers from `functools.partial`s: parameter groups with projections, total steps filled in."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, MultiStepLR, ReduceLROnPlateau

from kd_lightning.core.errors import ConfigError
from kd_lightning.objective import Objective

OptimizerFactory: TypeAlias = Callable[[Iterable[dict[str, Any]]], Optimizer]
SchedulerFactory: TypeAlias = Callable[[Optimizer], LRScheduler]

STEP_ARGUMENTS = ("total_steps", "num_training_steps", "T_max")
"""Arguments of schedulers for the number of steps of a whole run; filled in where they are not given."""

FUSED = ("cpu", "cuda", "mps", "xpu")
"""Devices for which PyTorch has an AdamW that updates all parameters in one kernel."""


def default_optimizer(groups: Iterable[dict[str, Any]]) -> Optimizer:
    """Return AdamW with a learning rate of 1e-4, fused where the parameters allow it.

    Example:
        >>> default_optimizer([{"params": [nn.Parameter(torch.zeros(2))]}]).defaults["fused"]
        True

    """
    groups = list(groups)
    parameters = [p for group in groups for p in group["params"]]
    fused = all(p.device.type in FUSED and p.is_floating_point() for p in parameters)
    return torch.optim.AdamW(groups, lr=1e-4, fused=fused)


def parameter_groups(student: nn.Module, *objectives: Objective) -> list[dict[str, Any]]:
    """Return the optimizer's groups: student and projections, then one group per learning rate of their own.

    A parameter that several of them share is there once.

    Example:
        >>> from kd_lightning import Match, Term
        >>> objective = Objective({"hard": Term(Match("logits", "labels"), nn.CrossEntropyLoss())})
        >>> len(parameter_groups(nn.Linear(2, 2), objective))
        1

    """
    trained = [p for p in student.parameters() if p.requires_grad]
    first, own = term_parameters(*objectives, besides=trained)
    return [{"params": [*trained, *first]}, *({"params": params, "lr": lr} for lr, params in own.items())]


def term_parameters(
    *objectives: Objective, besides: Sequence[nn.Parameter] = ()
) -> tuple[list[nn.Parameter], dict[float, list[nn.Parameter]]]:
    """Return objectives' trainable parameters, each once: those without and those with a learning rate of their own.

    Example:
        >>> from kd_lightning import Match, Term
        >>> term = Term(Match("0", "0"), nn.MSELoss(), projection=nn.Linear(2, 3), projection_lr=0.1)
        >>> first, own = term_parameters(Objective({"hidden": term}))
        >>> len(first), list(own)
        (0, [0.1])

    """
    first: list[nn.Parameter] = []
    own: dict[float, list[nn.Parameter]] = {}
    seen = {id(p) for p in besides}
    for term in (term for objective in objectives for term in objective.named_terms().values()):
        fresh = [p for p in term.parameters() if p.requires_grad and id(p) not in seen]
        seen |= {id(p) for p in fresh}
        if fresh:
            (first if term.projection_lr is None else own.setdefault(term.projection_lr, [])).extend(fresh)
    return first, own


def configure(
    optimizer: OptimizerFactory,
    scheduler: SchedulerFactory | None,
    groups: list[dict[str, Any]],
    total_steps: Callable[[], int],
    monitor: str,
) -> Any:
    """Build optimizer and scheduler, and return them as Lightning's `configure_optimizers` does.

    Args:
        optimizer: makes the optimizer.
        scheduler: makes the scheduler, stepped every step; `ReduceLROnPlateau` after every epoch; or None.
        groups: the optimizer's parameter groups.
        total_steps: returns the optimizer steps of the whole run; called only where the scheduler needs them.
        monitor: the logged name that `ReduceLROnPlateau` monitors.

    Raises:
        ConfigError: if the optimizer refuses its arguments.

    """
    made = build_optimizer(optimizer, groups)
    if scheduler is None:
        return made
    schedule: dict[str, Any] = {"scheduler": build_scheduler(scheduler, made, total_steps), "interval": "step"}
    if isinstance(schedule["scheduler"], ReduceLROnPlateau):
        schedule |= {"interval": "epoch", "monitor": monitor}
    return {"optimizer": made, "lr_scheduler": schedule}


def build_optimizer(factory: OptimizerFactory, groups: list[dict[str, Any]]) -> Optimizer:
    """Build an optimizer whose gradients can be clipped in any precision.

    Raises:
        ConfigError: if the optimizer refuses its arguments, with its reason.

    Example:
        >>> build_optimizer(partial(torch.optim.SGD, lr=-1.0), [{"params": nn.Linear(1, 1).parameters()}])
        Traceback (most recent call last):
        ...
        kd_lightning.core.errors.ConfigError: The optimizer cannot be made: Invalid learning rate: -1.0.

    """
    try:
        made = factory(groups)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"The optimizer cannot be made: {str(error).rstrip('.')}.") from error
    if made is None:
        raise ConfigError("The function `optimizer` returned None, and must return the optimizer that it makes.")
    return clippable(made)


def clippable(optimizer: Optimizer) -> Optimizer:
    """Allow gradients of a fused optimizer to be clipped under mixed precision, which Lightning 2.6 refuses.

    Fused optimizers unscale gradients within their step, too late for clipping. Without this flag the loss scaler
    unscales them before the step, as for any other optimizer; without a scaler nothing changes.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return optimizer


def build_scheduler(factory: Callable[..., Any], optimizer: Optimizer, total_steps: Callable[[], int]) -> Any:
    """Build a scheduler, with the total number of steps if it has an argument for that and none was given."""
    given = getattr(factory, "keywords", {})
    names = {*inspect.signature(factory).parameters, *given}  # LightningCLI's partials have a signature without names
    missing = [name for name in STEP_ARGUMENTS if name in names and given.get(name) is None]
    if given.get("steps_per_epoch") is not None:  # OneCycleLR's other form, with `epochs`
        missing = []
    made = factory(optimizer, **{name: total_steps() for name in missing})
    if made is None:
        raise ConfigError("The function `scheduler` returned None, and must return the scheduler that it makes.")
    return made


def linear_warmup(optimizer: Optimizer, total_steps: int, warmup: float = 0.1) -> LambdaLR:
    """Raise the learning rate linearly over the first share of training, then lower it linearly to zero.

    Args:
        optimizer: whose learning rates are scaled.
        total_steps: optimizer steps of the whole run.
        warmup: share of the steps, in [0, 1).

    Raises:
        ConfigError: if `warmup` is not in [0, 1).

    Example:
        >>> optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
        >>> schedule = linear_warmup(optimizer, total_steps=10, warmup=0.2).lr_lambdas[0]
        >>> schedule(1), schedule(2), schedule(6), schedule(10)
        (0.5, 1.0, 0.5, 0.0)

    """
    if not 0 <= warmup < 1:
        raise ConfigError(f"Expected argument `warmup` to be a share of the steps in [0, 1) but got {warmup}.")
    rise = warmup * total_steps
    return LambdaLR(optimizer, partial(_warmup_factor, rise=rise, total=total_steps))


def _warmup_factor(step: int, rise: float, total: int) -> float:
    if step < rise:
        return step / rise
    return max(0.0, (total - step) / max(total - rise, 1e-9))


def multistep(
    optimizer: Optimizer, total_steps: int, milestones: Sequence[float] = (0.5, 0.75), factor: float = 0.1
) -> MultiStepLR:
    """Multiply the learning rate by a factor at each of some milestones, as He et al. (2016) train on CIFAR-10.

    Args:
        optimizer: whose learning rates are scaled.
        total_steps: optimizer steps of the whole run.
        milestones: shares of the steps, in (0, 1).
        factor: what the learning rate is multiplied by.

    Raises:
        ConfigError: if a milestone is not in (0, 1), such as an epoch.

    Example:
        >>> optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
        >>> sorted(multistep(optimizer, total_steps=200).milestones)
        [100, 150]

    """
    wrong = next((share for share in milestones if not 0 < share < 1), None)
    if wrong is not None:
        raise ConfigError(f"Expected argument `milestones` to be shares of the steps in (0, 1) but got {wrong}.")
    return MultiStepLR(optimizer, [round(share * total_steps) for share in milestones], gamma=factor)
