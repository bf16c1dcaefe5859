"""A clock that knows which part of a step is running: parts may lie inside each other, and each has its own time."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import nn

import kd_lightning as kd
from benchmarks.timing import wait_for


class Phases:
    """Adds up the seconds of named phases; a phase inside another is taken off the outer one.

    Args:
        device: on `cuda` its work is waited for at every border, which makes the whole a little slower.
        clock: returns seconds.

    """

    def __init__(self, device: str = "cpu", clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.device, self.clock = device, clock
        self._open: list[tuple[str, float]] = []
        self._inside: list[float] = []

    def enter(self, name: str) -> None:
        """Begin a phase."""
        wait_for(self.device)
        self._open.append((name, self.clock()))
        self._inside.append(0.0)

    def leave(self) -> None:
        """End the innermost phase."""
        wait_for(self.device)
        name, start = self._open.pop()
        spent, inside = self.clock() - start, self._inside.pop()
        self.seconds[name] += spent - inside
        if self._inside:
            self._inside[-1] += spent

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a block; torch's profiler sees it under the same name."""
        self.enter(name)
        try:
            with torch.profiler.record_function(name):
                yield
        finally:
            self.leave()

    def timing(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function as a phase."""

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return function(*args, **kwargs)

        return timed

    def watch(self, name: str, module: nn.Module) -> None:
        """Time every forward pass of a module."""
        module.forward = self.timing(name, module.forward)  # type: ignore[method-assign]


class TimedTeacher(kd.TeacherSource):
    """A teacher source whose answers, and what it prepares for them, count as a phase."""

    def __init__(self, source: kd.TeacherSource, phases: Phases, name: str) -> None:
        self.source, self.phases, self.name = source, phases, name

    @property
    def info(self) -> Any:
        """The source's own."""
        return self.source.info

    def ask(self, addresses: Sequence[str]) -> None:
        """Ask the source."""
        self.source.ask(addresses)

    def prepare(self, batch: Any) -> Any:
        """Time what the source does before the batch is moved."""
        with self.phases.phase(self.name):
            return self.source.prepare(batch)

    def __call__(self, batch: Any) -> Any:
        """Time what the source answers."""
        with self.phases.phase(self.name):
            return self.source(batch)

    def to(self, device: torch.device | str) -> kd.TeacherSource:
        """Move the source."""
        self.source.to(device)
        return self

    def models(self) -> Iterator[nn.Module]:
        """Yield the source's models."""
        return self.source.models()
