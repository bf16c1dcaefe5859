"""The moments of a run at which it can be killed: its phases, and numbered points within each.

Imports no heavy library: a process that is to be watched loads this file before anything else.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

PHASES = ("start", "fine_tune", "cache", "baseline", "distil", "evaluate", "export")
"""Rows of the table; `start` is all that precedes the first batch, `export` all that follows an evaluation."""

BEGINS = "begins"
"""The first point of a phase."""

POINTS, ARMED = ".points", "armed"
"""What names of files of points end in; the file that says that a process has come to the point it is to die after."""

_WRITTEN = re.compile(r"(?P<phase>\w+)@(?P<point>\d+)(\+(?P<delay>[\d.]+))?(/(?P<role>\w+)(:(?P<watcher>\w+))?)?")

LAUNCHER = "launcher"
"""The role of the process that was started by the command; ranks are called by their number."""


@dataclass(frozen=True)
class Fault:
    """When a process is to die.

    Args:
        phase: of the run.
        point: number of the point within the phase.
        delay: seconds after the point; None: at the point itself.
        role: of the process that dies: `launcher`, a rank, or `all`.
        watcher: role of the process whose points are counted; None: of the one that dies.

    """

    phase: str
    point: int
    delay: float | None = None
    role: str = LAUNCHER
    watcher: str | None = None

    def __str__(self) -> str:
        delay = f"+{self.delay:.3f}" if self.delay is not None else ""
        role = "" if (self.role, self.watcher) == (LAUNCHER, None) else f"/{self.role}"
        return f"{self.phase}@{self.point}{delay}{role}" + (f":{self.watcher}" if self.watcher is not None else "")

    @classmethod
    def read(cls, text: str) -> Fault:
        """Return what was printed.

        Raises:
            ValueError: for any other text.

        Example:
            >>> str(Fault.read("distil@12")), str(Fault.read("cache@3+0.250/all:0"))
            ('distil@12', 'cache@3+0.250/all:0')

        """
        found = _WRITTEN.fullmatch(text)
        if found is None or found["phase"] not in PHASES:
            raise ValueError(f"{text!r} is no moment: type PHASE@POINT or PHASE@POINT+SECONDS, as in distil@12+0.05.")
        delay = float(found["delay"]) if found["delay"] else None
        return cls(found["phase"], int(found["point"]), delay, found["role"] or LAUNCHER, found["watcher"])

    def is_watched_by(self, role: str) -> bool:
        """Tell whether points of a role's process count."""
        return role == (self.watcher or self.role)

    @property
    def as_json(self) -> dict[str, Any]:
        """All of it, for a file."""
        return asdict(self)


def die() -> None:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


class Clock:
    """Follows a process through its phases and points, writes each down, and ends the process at one of them.

    What is written is there at once, so that it also says where a process was that somebody else has killed.

    Args:
        folder: the file is `ROLE-PROCESS.points` in it: lines of the phase, what happens, and
            the time.
        fault: the point to die at, if this process has its role.
        role: of this process.

    """

    def __init__(self, folder: Path, fault: Fault | None = None, role: str = LAUNCHER) -> None:
        self.folder = str(folder)
        self.phase = PHASES[0]
        self.counts: Counter[str] = Counter()
        self.fault = fault if fault is not None and fault.is_watched_by(role) else None
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self.file = os.open(Path(folder, f"{role}-{os.getpid()}{POINTS}"), flags)
        self.enter(self.phase)

    def enter(self, phase: str) -> None:
        """Begin a phase, or go on with it."""
        self.phase = phase
        self.point(BEGINS)

    def point(self, what: str, act: Callable[[], None] = die) -> None:
        """Pass a point, or act there."""
        number = self.counts[self.phase]
        self.counts[self.phase] += 1
        os.write(self.file, f"{self.phase}\t{what}\t{time.monotonic():.4f}\n".encode())
        if self.fault is None or (self.fault.phase, self.fault.point) != (self.phase, number):
            return
        if self.fault.delay is None:
            act()
        else:
            Path(self.folder, ARMED).touch()


class Point(NamedTuple):
    """A moment that a process has passed."""

    phase: str
    what: str
    seconds: float


def read_points(folder: Path, role: str = LAUNCHER) -> list[list[Point]]:
    """Return the points that each process of a role has passed: several, where stages have ranks of their own."""
    return [_points(file) for file in sorted(folder.glob(f"{role}-*{POINTS}"), key=lambda file: file.stat().st_mtime)]


def _points(file: Path) -> list[Point]:
    cells = [line.split("\t") for line in file.read_text().splitlines()]
    return [Point(phase, what, float(seconds)) for phase, what, seconds in cells]
