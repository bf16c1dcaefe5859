"""How an objective's parameters join an optimizer that the user's own `configure_optimizers` makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.optim import Optimizer

from kd_lightning.core.errors import ConfigError
from kd_lightning.objective import Objective
from kd_lightning.training.optim import term_parameters

ATTRIBUTE = "kd_objective"
"""Attribute of the user's module that holds the objective during a fit."""

Parameters: TypeAlias = list[nn.Parameter]


def with_objective(configure: Callable[[], Any], objective: Objective) -> Callable[[], Any]:
    """Return a `configure_optimizers` whose optimizer also trains an objective's parameters.

    They join while the optimizer is constructed, since schedulers read its groups at their own construction: in the
    user's first group, or in one of their own where a term has a learning rate of its own.

    Raises:
        ConfigError: when called, if the optimizer or the scheduler cannot take the parameters.

    """

    def configure_optimizers() -> Any:
        first, own = term_parameters(objective)
        if not first and not own:
            return configure()
        names = {id(p): f"{ATTRIBUTE}.{name}" for name, p in objective.named_parameters()}
        try:
            with _new_optimizers_include(first, own, names):
                configured = configure()
        except (ValueError, IndexError) as error:
            if own:
                raise ConfigError(
                    f"A scheduler cannot take the projections' own group ({error}). Leave projection_lr out, and they "
                    "join the first group."
                ) from error
            raise
        _check_included([*first, *(p for group in own.values() for p in group)], configured)
        _check_rates(own, configured)
        return configured

    return configure_optimizers


@contextmanager
def _new_optimizers_include(first: Parameters, own: dict[float, Parameters], names: dict[int, str]) -> Iterator[None]:
    """While this lasts, add the parameters to every new optimizer: to its first group, and in groups by rate."""
    original = Optimizer.__init__

    def init(self: Optimizer, params: Any, defaults: dict[str, Any]) -> None:
        groups = _as_groups(params)
        for group in groups:  # `self.parameters()` of the user's module has the objective's, too
            group["params"] = [p for p in group["params"] if id(p[1] if isinstance(p, tuple) else p) not in names]
        groups = [group for group in groups if group["params"]] or groups[:1]
        named = any(isinstance(p, tuple) for p in groups[0]["params"])

        def entries(parameters: Parameters) -> list[Any]:
            return [(names[id(p)], p) for p in parameters] if named else parameters

        groups[0]["params"] = [*groups[0]["params"], *entries(first)]
        groups += [{"params": entries(parameters), "lr": rate} for rate, parameters in own.items()]
        original(self, groups, defaults)

    Optimizer.__init__ = init  # type: ignore[method-assign]
    try:
        yield
    finally:
        Optimizer.__init__ = original  # type: ignore[method-assign]


def _as_groups(params: Any) -> list[dict[str, Any]]:
    """Return an optimizer's first argument as new groups, each with a list of (named) parameters."""
    given = list(params)
    groups = given if given and isinstance(given[0], dict) else [{"params": given}]
    return [
        {**group, "params": [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])}
        for group in groups
    ]


def _optimizers(configured: Any) -> list[Optimizer]:
    """Return the optimizers in any form that `configure_optimizers` may return them in."""
    if isinstance(configured, Optimizer):
        return [configured]
    if isinstance(configured, dict):
        return _optimizers(configured.get("optimizer"))
    if isinstance(configured, (list, tuple)):
        return [optimizer for item in configured for optimizer in _optimizers(item)]
    return []


def _check_included(parameters: Parameters, configured: Any) -> None:
    trained = {id(p) for optimizer in _optimizers(configured) for g in optimizer.param_groups for p in g["params"]}
    if _optimizers(configured) and not all(id(p) in trained for p in parameters):
        raise ConfigError(
            "configure_optimizers returns an optimizer that it did not make, so the projections cannot join it. "
            "Make the optimizer inside of configure_optimizers."
        )


def _check_rates(own: dict[float, Parameters], configured: Any) -> None:
    """OneCycleLR gives every group its one `max_lr`; a projection's own rate would be lost silently."""
    rates = {id(p): rate for rate, parameters in own.items() for p in parameters}
    for optimizer in _optimizers(configured):
        for group in optimizer.param_groups:
            rate = rates.get(id(group["params"][0])) if group["params"] else None
            if rate is not None and group.get("max_lr", rate) != rate:
                raise ConfigError(
                    f"The scheduler overrides projection_lr={rate} by max_lr={group['max_lr']}. "
                    "Leave projection_lr out."
                )
