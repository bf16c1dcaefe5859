"""Replacing a method of one object, reversibly."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def replaced(owner: Any, name: str, function: Callable[..., Any]) -> Callable[[], None]:
    """Put a function in the place of an object's method and return what undoes it.

    Signature and docstring stay the method's, for callers that look at them; other objects of its class do not notice.

    Example:
        >>> class Greeter:
        ...     def greet(self): return "hello"
        >>> greeter = Greeter()
        >>> undo = replaced(greeter, "greet", lambda: "bye")
        >>> greeter.greet()
        'bye'
        >>> undo()
        >>> greeter.greet()
        'hello'

    """
    own = owner.__dict__.get(name)
    object.__setattr__(owner, name, functools.wraps(getattr(owner, name))(function))

    def undo() -> None:
        if own is None:
            owner.__dict__.pop(name, None)
        else:
            object.__setattr__(owner, name, own)

    return undo
