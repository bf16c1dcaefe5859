"""Plans of episodes: at which moments a run is to be killed, drawn or all of a kind."""

from __future__ import annotations

import random
from collections.abc import Sequence

from benchmarks.faults.episodes import Reference
from benchmarks.faults.moments import BEGINS, LAUNCHER, PHASES, Fault, Point

EARLY = ("start", "fine_tune", "cache")
"""Phases of the process that is started by the command, before it starts ranks."""


def draw_plan(draw: random.Random, reference: Reference, number: int) -> list[Fault]:
    """Draw two to five moments: the first in the phase that is this episode's turn, the others anywhere."""
    phases = reference.phases
    chosen = [phases[number % len(phases)], *draw.choices(phases, k=draw.choice([1, 2, 3, 4]))]
    chosen.sort(key=PHASES.index)
    return [draw_fault(draw, reference, phase, i > 0 and phase == chosen[i - 1]) for i, phase in enumerate(chosen)]


def draw_fault(draw: random.Random, reference: Reference, phase: str, again: bool = False) -> Fault:
    """Draw a moment of a phase: half of the time any, the other half a point, mostly one of a file operation.

    Args:
        draw: of random numbers.
        reference: says which points there are, and when.
        phase: of the run.
        again: a phase that the run was killed in before has fewer points now: draw one of the first half.

    """
    roles = [role for role in reference.points if passed_in(reference, role, phase)]
    roles = [LAUNCHER] if phase in EARLY else [role for role in roles if role != LAUNCHER] or roles
    watcher = roles[0]
    if draw.random() < 0.5:
        moments = spans(draw.choice(passed_in(reference, watcher, phase)), phase)
        moments = moments[: max(1, len(moments) // 2)] if again else moments
        number, length = draw.choices([*enumerate(moments)], weights=[length + 1e-6 for length in moments])[0]
        role = LAUNCHER if watcher == LAUNCHER else draw.choice([LAUNCHER, "all", *roles])
        return Fault(phase, number, round(draw.random() * length, 3), role, watcher if role != watcher else None)
    role = draw.choice(roles)
    points = [point.what for point in draw.choice(passed_in(reference, role, phase)) if point.phase == phase]
    points = points[: max(1, len(points) // 2)] if again else points
    files = [number for number, what in enumerate(points) if is_file_operation(what)]
    several = files if files and draw.random() < 0.6 else range(len(points))
    return Fault(phase, draw.choice(several), role=role)


def passed_in(reference: Reference, role: str, phase: str) -> list[list[Point]]:
    """Return the points of the processes of a role that have been in a phase."""
    return [points for points in reference.points[role] if any(point.phase == phase for point in points)]


def spans(points: Sequence[Point], phase: str) -> list[float]:
    """Return how many seconds there are after each point of a phase."""
    ends = [*points[1:], points[-1]]
    return [end.seconds - point.seconds for point, end in zip(points, ends, strict=True) if point.phase == phase]


def file_plans(reference: Reference, each: int = 8) -> list[list[Fault]]:
    """Return plans that go through every distinct file operation of a run, before, amid and after, once each."""
    seen: dict[tuple[str, str], Fault] = {}
    counts: dict[str, int] = {}
    for point in reference.points[LAUNCHER][0]:
        number = counts[point.phase] = counts.get(point.phase, -1) + 1
        if is_file_operation(point.what):
            seen.setdefault((point.phase, point.what), Fault(point.phase, number))
    faults = list(seen.values())
    rounds = -(-len(faults) // each)
    return [sorted(faults[start::rounds], key=lambda fault: PHASES.index(fault.phase)) for start in range(rounds)]


def is_file_operation(what: str) -> bool:
    """Tell whether a point is one of a file."""
    return not what.startswith("on_") and what != BEGINS
