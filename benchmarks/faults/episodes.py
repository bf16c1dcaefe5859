"""An episode: a run from nothing, killed a few times, resumed as a user would, brought to its end, and compared."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.faults.compare import Left, differences, left
from benchmarks.faults.moments import LAUNCHER, PHASES, Fault, Point, read_points
from benchmarks.faults.processes import Place, real, survivors, wait
from benchmarks.faults.scenarios import Scenario

Start: TypeAlias = Callable[[Place, Sequence[str], Fault | None], int]

TIMEOUT = 900.0
"""Seconds after which a run counts as one that hangs."""


@dataclass
class Reference:
    """A run that was never killed.

    Args:
        left: what it left.
        points: by role, what each of its processes passed.

    """

    left: Left
    points: dict[str, list[list[Point]]]

    @property
    def phases(self) -> list[str]:
        """The phases that it has, in their order."""
        found = {point.phase for role in self.points.values() for points in role for point in points}
        return [phase for phase in PHASES if phase in found]


@dataclass
class Episode:
    """What became of a run that was killed.

    Args:
        scenario: its name.
        plan: the moments that it was to be killed at.
        real: whether it was the real command, or forked.
        kills: where it was killed: phase, what it had just passed, and the moment of the plan.
        deviations: what differs from the reference.
        seconds: that it took.

    """

    scenario: str
    plan: list[str]
    real: bool
    kills: list[dict[str, str]] = field(default_factory=list)
    deviations: list[str] = field(default_factory=list)
    seconds: float = 0.0


def refer(scenario: Scenario, place: Place, start: Start) -> Reference:
    """Run a scenario to its end, never killed.

    Raises:
        RuntimeError: it ends with an error.

    """
    clean(place)
    code = attempt(scenario, place, start, None)
    if code != 0:
        raise RuntimeError(f"Scenario {scenario.name} ends with {code} unkilled:\n{tail(place, 4000)}")
    roles = [LAUNCHER, *map(str, range(scenario.ranks if scenario.ranks > 1 else 0))]
    return Reference(left(place.folder), {role: read_points(place.watch, role) for role in roles})


def play(scenario: Scenario, place: Place, start: Start, plan: Sequence[Fault], reference: Reference) -> Episode:
    """Kill a run at the moments of a plan, resuming it each time, and compare what it leaves in the end."""
    begun, episode = time.monotonic(), Episode(scenario.name, [str(fault) for fault in plan], start is real)
    clean(place)
    for fault in (*plan, None):
        code = attempt(scenario, place, start, fault)
        if code == 0:
            break
        killed = code is not None and (code < 0 or (fault is not None and fault.role != LAUNCHER))
        if fault is None or not killed:
            what = "hangs" if code is None else f"error: ends with {code}"
            episode.deviations.append(f"{what}, {tail(place, 400)}")
            break
        episode.kills.append(_place_of_death(place, fault))
    else:
        episode.deviations.append("error: does not end")
    episode.deviations += differences(reference.left, left(place.folder)) if code == 0 else []
    episode.deviations += end_survivors(place)
    episode.seconds = round(time.monotonic() - begun, 1)
    return episode


def attempt(scenario: Scenario, place: Place, start: Start, fault: Fault | None) -> int | None:
    """Start or resume a run as a user would, and wait for its end."""
    if place.watch.exists():
        place.watch.rename(place.folder / f"watch.{len(list(place.folder.glob('watch*')))}")
    place.watch.mkdir()
    with (place.folder / "output").open("a") as output:
        output.write(f"-- {fault}\n")
    resumed = (place.run / "config.yaml").is_file()
    typed = ["resume=run"] if resumed else scenario.typed(place.folder)
    return wait(start(place, typed, fault), place, fault, TIMEOUT)


def clean(place: Place) -> None:
    """Make a place as a new user has it; data and given teachers stay."""
    for path in place.folder.glob("*"):
        if path.name not in ("data", "teachers"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in ("kd_cache", "tmpdir"):
        (place.folder / name).mkdir()


def end_survivors(place: Place, patience: float = 10.0) -> list[str]:
    """End processes that should have ended by themselves, and say so."""
    until = time.monotonic() + patience
    while (found := survivors(place)) and time.monotonic() < until:
        time.sleep(0.1)
    for number in found:
        os.kill(number, signal.SIGKILL)
    return [f"survivors: {len(found)} processes of killed runs"] if found else []


def tail(place: Place, length: int) -> str:
    """Return the end of what a run has printed."""
    text = (place.folder / "output").read_text(errors="replace")
    return text[text.rindex("\n-- ") if "\n-- " in text else 0 :].strip()[-length:]


def _place_of_death(place: Place, fault: Fault) -> dict[str, str]:
    """Return in which phase a run died, and what it had just passed."""
    roles = [fault.role] if fault.role.isdigit() else ["0", LAUNCHER]
    points = [passed for role in roles for passed in read_points(place.watch, role)]
    last = max((passed[-1] for passed in points if passed), key=lambda point: point.seconds, default=None)
    phase, what = (last.phase, last.what) if last else (PHASES[0], "nothing")
    return {"phase": phase, "what": what, "fault": str(fault)}


def teachers_of(place: Place, start: Start, scenario: Scenario, folder: Path, seeds: Sequence[int] = (0, 1)) -> None:
    """Fine-tune two teachers, `a` and `b`, and keep them in a folder."""
    for name, seed in zip("ab", seeds, strict=True):
        if not (folder / name).is_dir():
            clean(place)
            typed = [*scenario.typed(place.folder), f"seed={seed}", "baseline=false", "trainer.max_epochs=1"]
            place.watch.mkdir()
            if wait(start(place, typed, None), place, None, TIMEOUT) != 0:
                raise RuntimeError(f"The teacher {name} was not fine-tuned:\n{tail(place, 4000)}")
            found = next(path for path in (place.folder / "kd_cache" / "teachers").iterdir() if path.is_dir())
            shutil.copytree(found, folder / name)


def as_row(episode: Episode) -> dict[str, Any]:
    """Return an episode as a line of the results' file has it."""
    return dict(vars(episode))
