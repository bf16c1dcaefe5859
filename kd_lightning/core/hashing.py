"""Hashes that stand for what something was made from."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(*parts: Any) -> str:
    """Return 16 hex digits that stand for JSON-like values.

    Example:
        >>> digest("a", 1) == digest("a", 1), digest("a", 1) == digest("a1")
        (True, False)

    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
