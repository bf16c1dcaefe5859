"""Checks of what losses are made with, each an error that says what to give instead."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from kd_lightning.core.arguments import is_finite_number
from kd_lightning.core.errors import ConfigError, hint


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Check an option that has a few possible values.

    Raises:
        ConfigError: if `value` is none of `choices`.

    Example:
        >>> check_choice("inputs", "scores", ("probabilities", "scores"))

    """
    choices = tuple(choices)
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ConfigError(f"Expected argument `{name}` to be one of {listed} but got {value!r}.")


def check_positive(name: str, value: float | None) -> None:
    """Check a number that must be positive and finite, None allowed.

    Raises:
        ConfigError: if it is zero, negative, infinite or not a number.

    Example:
        >>> check_positive("temperature", 2.0)

    """
    if value is not None and not (is_finite_number(value) and value > 0):
        raise ConfigError(f"Expected argument `{name}` to be positive and finite but got {value!r}.")


def check_count(name: str, value: object) -> None:
    """Check a whole number of at least 1.

    Raises:
        ConfigError: if it is none.

    Example:
        >>> check_count("grid", 4)

    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"Expected argument `{name}` to be a whole number of at least 1 but got {value!r}.")


def refuse_removed(loss: type, given: Mapping[str, Any], instead: Mapping[str, str]) -> None:
    """Raise an error for arguments that a loss does not have; for those it once had, one that names what to use.

    A loss that had other arguments ends its signature with `**removed` and calls this first, so that old configurations
    reach the explanation.

    Args:
        loss: the class.
        given: names and values of what it was given beyond its arguments.
        instead: for each argument that it once had, the class to use.

    Raises:
        ConfigError: if anything is given.

    Example:
        >>> class Mine: ...
        >>> refuse_removed(Mine, {"old": True}, {"old": "Other()"})
        Traceback (most recent call last):
        kd_lightning.core.errors.ConfigError: Mine has no argument `old` (given: True). Use Other().

    """
    for name, value in given.items():
        known = [p for p in inspect.signature(loss).parameters if p != "removed"]
        advice = f"Use {instead[name]}." if name in instead else hint(name, known)
        raise ConfigError(f"{loss.__name__} has no argument `{name}` (given: {value!r}). {advice}")
