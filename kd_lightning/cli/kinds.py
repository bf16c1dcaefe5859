"""Whether a value of a configuration is of a kind that an argument takes, by its annotation."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from kd_lightning.core.errors import ConfigError, hint

WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a mapping",
}
"""What kinds of values are called, in the order in which they are listed."""

TEXTS, LISTS, MAPPINGS = (str, Path, PathLike), (list, tuple, set, Sequence), (dict, Mapping)


@cache
def types_of(called: Any) -> Mapping[str, Any]:
    """Return how arguments are annotated, those of a class's bases too, as far as that can be told.

    Example:
        >>> def scale(x: int, by: float = 2.0): ...
        >>> dict(types_of(scale))
        {'x': <class 'int'>, 'by': <class 'float'>}

    """
    found: dict[str, Any] = {}
    for made in called.__mro__ if isinstance(called, type) else [called]:
        try:
            hints = typing.get_type_hints(vars(made)["__init__"] if isinstance(made, type) else made)
        except Exception:  # none of its own, or annotations that name what is not imported
            continue
        found = hints | found
    return found


def check_kind(path: str, value: Any, annotated: Any) -> None:
    """Raise an error for a value of no kind that an argument takes; nothing where its annotation says too little.

    Args:
        path: the value's key, for the message.
        value: a plain value, as YAML has.
        annotated: the argument's annotation.

    Raises:
        ConfigError: naming the key, and what it takes.

    Example:
        >>> check_kind("optimizer.lr", "abc", float | Tensor)
        Traceback (most recent call last):
        ...
        kd_lightning.core.errors.ConfigError: 'optimizer.lr' cannot be 'abc': it must be a number.

    """
    kinds, choices = _kinds_of(annotated)
    parts = _parts(annotated)
    built = all(isinstance(part, type) and part not in (object, Any) for part in parts)
    if value is None and type(None) in parts:
        return
    if value is None and built and not kinds and not choices:
        raise ConfigError(f"'{path}' cannot be null.")
    if isinstance(value, list | dict) and _kind(value) in kinds:
        _check_inner(path, value, annotated)
        return
    if (not kinds and not choices) or value in choices or _kind(value) in kinds:
        return
    if value is None:
        raise ConfigError(f"'{path}' cannot be null: it must be {_words(kinds, choices)}.")
    if type(value) is int and float in kinds:
        return
    near = f" {hint(value, map(str, choices))}" if choices and isinstance(value, str) else ""
    if str in kinds and type(value) in (int, float):
        near = f" Quote it twice, as in '{path}=\"{value}\"', to make it one."
    raise ConfigError(f"'{path}' cannot be {value!r}: it must be {_words(kinds, choices)}.{near}")


def _check_inner(path: str, value: Any, annotated: Any) -> None:
    """Check the entries of a list or mapping, where only one kind of list or mapping is taken, and of what is said."""
    origins = LISTS if isinstance(value, list) else MAPPINGS
    parts = [part for part in _parts(annotated) if typing.get_origin(part) in origins]
    of = [kind for kind in typing.get_args(parts[0]) if kind is not ...] if len(parts) == 1 else []
    if isinstance(value, dict) and len(of) == 2:
        for name, inner in value.items():
            check_kind(f"{path}.{name}", inner, of[1])
    elif isinstance(value, list) and of and all(kind == of[0] for kind in of):
        for place, inner in enumerate(value):
            check_kind(f"{path}[{place}]", inner, of[0])


def _words(kinds: set[Any], choices: Sequence[Any]) -> str:
    named = [*(words for kind, words in WORDS.items() if kind in kinds), *(repr(choice) for choice in choices)]
    return " or ".join(named)


def _kind(value: Any) -> Any:
    return type(None) if value is None else next((kind for kind in WORDS if type(value) is kind), None)


def _kinds_of(annotated: Any) -> tuple[set[Any], list[Any]]:
    """Return which plain values an annotation takes: kinds of `WORDS`, and single values; nothing where it may be any.

    Example:
        >>> sorted(kind.__name__ for kind in _kinds_of(float | Sequence[str] | None)[0])
        ['NoneType', 'float', 'list']

    """
    kinds: set[Any] = set()
    choices: list[Any] = []
    for part in _parts(annotated):
        origin = typing.get_origin(part) or part
        if origin is typing.Literal:
            choices += typing.get_args(part)
        elif (kind := _plain_kind(origin)) is not None:
            kinds.add(kind)
        elif origin is not Tensor:  # which no file holds
            return set(), []
    return kinds, choices


def _plain_kind(origin: Any) -> Any:
    """Return the kind of value that an annotation without its parameters means; None for what is built."""
    for kind, origins in ((str, TEXTS), (list, LISTS), (dict, MAPPINGS)):
        if origin in origins:
            return kind
    return origin if origin in (bool, int, float, type(None)) else None


def _parts(annotated: Any) -> list[Any]:
    """Return the members of a union, of unions in it too."""
    if typing.get_origin(annotated) not in (typing.Union, types.UnionType):
        return [annotated]
    return [part for member in typing.get_args(annotated) for part in _parts(member)]
