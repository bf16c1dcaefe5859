"""Run by test_durable.py as a script: a command, with every sync and every move of a file written down."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from many_commands import outcome

EVENTS: list[list[str]] = []


def synced(call: Callable[[int], Any]) -> Callable[[int], Any]:
    def sync(opened: int) -> Any:
        EVENTS.append(["sync", os.path.realpath(f"/proc/self/fd/{opened}")])
        return call(opened)

    return sync


def moved(call: Callable[..., Any], kind: str = "move") -> Callable[..., Any]:
    def move(source: Any, target: Any, **given: Any) -> Any:
        EVENTS.append([kind, *(os.path.abspath(os.fspath(place)) for place in (source, target))])
        return call(source, target, **given)

    return move


if __name__ == "__main__":
    os.fsync, os.rename, os.replace = synced(os.fsync), moved(os.rename), moved(os.replace)
    os.link = moved(os.link, "link")
    done = outcome("run", sys.argv[1:])
    Path("results.json").write_text(json.dumps({"done": done, "events": EVENTS}))
