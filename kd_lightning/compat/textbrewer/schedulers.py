"""TextBrewer's schedulers, by their names, or as the functions it keeps once it has read them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kd_lightning.core.errors import ConfigError, hint
from kd_lightning.core.types import Schedule
from kd_lightning.losses.soft_target import SampleTemperature
from kd_lightning.objective.schedules import CWSM, FLSW, LinearDecay, LinearGrowth

WEIGHTS: dict[str, type[LinearDecay] | type[LinearGrowth]] = {
    "linear_decay": LinearDecay,
    "linear_growth": LinearGrowth,
}
TEMPERATURES: dict[str, Callable[..., SampleTemperature]] = {"flsw": FLSW, "cwsm": CWSM}


def weight_schedule(scheduler: Any) -> Schedule | None:
    """Return the schedule of a weight, None for none.

    Args:
        scheduler: a name; or a function of progress: one of TextBrewer's is known by its name, another is a schedule.

    Raises:
        ConfigError: for an unknown name.

    Example:
        >>> weight_schedule("linear_decay")
        LinearDecay()

    """
    name = getattr(scheduler, "__name__", "").removesuffix("_weight_scheduler") if callable(scheduler) else scheduler
    if name in (None, "none"):
        return None
    if name in WEIGHTS:
        return WEIGHTS[name]()
    if callable(scheduler):
        return scheduler
    raise ConfigError(f"Unknown weight scheduler {scheduler!r}. {hint(str(scheduler), [*WEIGHTS, 'none'])}")


def sample_temperature(scheduler: Any) -> SampleTemperature | None:
    """Return the rule that gives each sample its temperature, None for a constant one.

    Args:
        scheduler: `"none"`, `"constant"`, or a list, `["flsw", beta, gamma]` or `["cwsm", beta]`, whose arguments may
            be a dict too; or the function that TextBrewer made of one.

    Raises:
        ConfigError: for an unknown name, or arguments that do not fit.

    Example:
        >>> sample_temperature(["flsw", 1, 2])
        FLSW(beta=1, gamma=2, floor=0.1)

    """
    name, arguments, options = _read_function(scheduler) if callable(scheduler) else _read_list(scheduler)
    if name in (None, "none", "constant"):
        return None
    if name not in TEMPERATURES:
        raise ConfigError(
            f"Unknown temperature scheduler {name!r}. {hint(str(name), [*TEMPERATURES, 'constant', 'none'])}"
        )
    try:
        return TEMPERATURES[name](*arguments, **options)
    except TypeError as error:
        raise ConfigError(f"The temperature scheduler {scheduler!r} does not fit {name.upper()}: {error}.") from None


def _read_list(scheduler: Any) -> tuple[Any, Sequence[Any], Mapping[str, Any]]:
    if isinstance(scheduler, str) or not isinstance(scheduler, Sequence):
        return scheduler, (), {}
    name, *arguments = scheduler
    if len(arguments) == 1 and isinstance(arguments[0], Mapping):
        return name, (), arguments[0]
    return name, arguments, {}


def _read_function(scheduler: Callable[..., Any]) -> tuple[Any, Sequence[Any], Mapping[str, Any]]:
    """Read a function that TextBrewer made: its arguments are what it remembers."""
    name = getattr(scheduler, "__name__", repr(scheduler)).removesuffix("_temperature_scheduler")
    options = {key: value for key, value in inspect.getclosurevars(scheduler).nonlocals.items() if key != "eps"}
    return name, (), options
