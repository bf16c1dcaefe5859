"""Hashes for fingerprints: of what a cache or a teacher was made from."""

from __future__ import annotations

import hashlib
import inspect
import json
from typing import Any


def digest(*parts: Any) -> str:
    """Return a hash of JSON-like values: 16 hex digits.

    Example:
        >>> digest("a", 1) == digest("a", 1), digest("a", 1) == digest("a1")
        (True, False)

    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def code_identity(thing: Any) -> str:
    """Return the name of a class or function, and of a user's own a hash of its source, which may be edited.

    Example:
        >>> code_identity(digest)
        'digest'

    """
    name: str = thing.__qualname__
    if thing.__module__.partition(".")[0] == __name__.partition(".")[0]:
        return name.rpartition(".")[-1]  # of this package, whose formats have numbers
    try:
        return f"{name}#{digest(inspect.getsource(thing))}"
    except (OSError, TypeError):  # typed in a shell, or not written in Python
        return name
