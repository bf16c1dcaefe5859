"""Bringing projections into an optimizer that the user's own code makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.optim import Optimizer

from kd_lightning.core.errors import ConfigError
from kd_lightning.objective import Objective
from kd_lightning.training.optim import term_parameters

Groups: TypeAlias = list[dict[str, Any]]
Parameters: TypeAlias = list[nn.Parameter]


def joined(configure: Callable[[], Any], objective: Objective) -> Callable[[], Any]:
    """Return a `configure_optimizers` whose optimizer also trains an objective's parameters.

    They are there from the optimizer's birth, for schedulers settle their groups when they are made: in the user's
    first group, or in one of their own where a term has a learning rate of its own.

    Raises:
        ConfigError: on calling, where optimizer or scheduler cannot take them.

    """

    def configure_optimizers() -> Any:
        first, own = term_parameters(objective)
        if not first and not own:
            return configure()
        try:
            with _newborns_take(first, own, {id(p): f"kd_objective.{n}" for n, p in objective.named_parameters()}):
                configured = configure()
        except (ValueError, IndexError) as error:
            if own:
                raise ConfigError(
                    f"A scheduler cannot take the projections' own group ({error}). Leave projection_lr out, and they "
                    "join the first group."
                ) from error
            raise
        _check_all_there([*first, *(p for group in own.values() for p in group)], configured)
        _check_rates(own, configured)
        return configured

    return configure_optimizers


@contextmanager
def _newborns_take(first: Parameters, own: dict[float, Parameters], names: dict[int, str]) -> Iterator[None]:
    """While this lasts, every new optimizer takes the parameters: in its first group, and in groups by rate."""
    born = Optimizer.__init__

    def init(self: Optimizer, params: Any, defaults: dict[str, Any]) -> None:
        groups = _without(_as_groups(params), names)
        named = any(isinstance(p, tuple) for p in groups[0]["params"])
        groups[0]["params"] = [*groups[0]["params"], *_like(named, first, names)]
        groups += [{"params": _like(named, members, names), "lr": rate} for rate, members in own.items()]
        born(self, groups, defaults)

    Optimizer.__init__ = init  # type: ignore[method-assign]
    try:
        yield
    finally:
        Optimizer.__init__ = born  # type: ignore[method-assign]


def _as_groups(params: Any) -> Groups:
    given = list(params)
    if given and isinstance(given[0], dict):
        return [{**group, "params": _listed(group["params"])} for group in given]
    return [{"params": given}]


def _listed(params: Any) -> list[Any]:
    return [params] if isinstance(params, Tensor) else list(params)


def _without(groups: Groups, ours: dict[int, str]) -> Groups:
    """Take the parameters out of the user's groups, where `self.parameters()` put them."""
    for group in groups:
        group["params"] = [p for p in group["params"] if id(p[1] if isinstance(p, tuple) else p) not in ours]
    return [group for group in groups if group["params"]] or groups[:1]


def _like(named: bool, params: Parameters, names: dict[int, str]) -> list[Any]:
    """Name the parameters where their neighbours have names."""
    return [(names[id(p)], p) for p in params] if named else list(params)


def _optimizers(configured: Any) -> list[Optimizer]:
    """Return the optimizers in whatever form `configure_optimizers` may give them."""
    if isinstance(configured, Optimizer):
        return [configured]
    if isinstance(configured, dict):
        return _optimizers(configured.get("optimizer"))
    if isinstance(configured, (list, tuple)):
        return [optimizer for item in configured for optimizer in _optimizers(item)]
    return []


def _check_all_there(params: Parameters, configured: Any) -> None:
    trained = {id(p) for optimizer in _optimizers(configured) for g in optimizer.param_groups for p in g["params"]}
    if _optimizers(configured) and not all(id(p) in trained for p in params):
        raise ConfigError(
            "configure_optimizers returns an optimizer that it did not make, so the projections cannot join it. "
            "Make the optimizer inside of configure_optimizers."
        )


def _check_rates(own: dict[float, Parameters], configured: Any) -> None:
    """OneCycleLR gives every group its one `max_lr`; a rate of one's own would be lost without a word."""
    rates = {id(p): rate for rate, members in own.items() for p in members}
    for optimizer in _optimizers(configured):
        for group in optimizer.param_groups:
            rate = rates.get(id(group["params"][0])) if group["params"] else None
            if rate is not None and group.get("max_lr", rate) != rate:
                raise ConfigError(
                    f"The scheduler overrides projection_lr={rate} by max_lr={group['max_lr']}. "
                    "Leave projection_lr out."
                )
