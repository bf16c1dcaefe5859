"""Checks of what public constructors are given: models and numbers."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import nn

from kd_lightning.core.errors import ConfigError


def is_finite_number(value: object) -> bool:
    """Return whether something is a finite number; True and False are none.

    Example:
        >>> [is_finite_number(value) for value in (2, 0.5, True, "2", float("nan"))]
        [True, True, False, False, False]

    """
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_finite_number(name: str, value: object, least: float = -math.inf) -> None:
    """Check a number that must be finite.

    Raises:
        ConfigError: if it is no number, not finite, or less than `least`.

    """
    if not is_finite_number(value) or value < least:  # type: ignore[operator]
        bound = "" if least == -math.inf else f" of at least {least:g}"
        raise ConfigError(f"Expected argument `{name}` to be a finite number{bound} but got {value!r}.")


def check_model(name: str, model: Any) -> None:
    """Check that an argument is a model that can be tapped.

    Raises:
        ConfigError: if it is no `nn.Module`, or one that `torch.jit` made, in which hooks do not run.

    """
    if not isinstance(model, nn.Module):
        got = f"the class {model.__name__}: write {model.__name__}()" if isinstance(model, type) else repr(model)[:60]
        raise ConfigError(f"Expected argument `{name}` to be an nn.Module but got {got}.")
    if isinstance(model, torch.jit.ScriptModule):
        raise ConfigError(
            f"The {name} was traced or scripted by torch.jit, and features inside such a model cannot be collected: "
            "give the nn.Module that it was made from."
        )
