"""Kills the command at many moments, resumes it, and compares what it leaves with a run that was never killed.

python -m benchmarks.faults [--kills 200] [--seed 0] [--scenario NAME …] [--files] [--real]

Every scenario is one command of `train.py`, in which everything is small. An episode starts it from nothing, kills it
two to five times, each time resuming it as a user would (`resume=DIR`, or the same command where nothing was saved),
lets it end, and compares weights, metrics, curves and files. Half of the moments are random, drawn by (seed, scenario,
episode), and half are points: before, after or amid a file operation, before or after the callbacks of a batch or
a validation. Results are added to a file of JSON lines, and the table is made of that file: the grid can be split over
several calls. `--plan` repeats an episode; `--files` goes through all file operations; `--source` takes another
checkout's `train.py`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from benchmarks.faults import data, episodes, plans, processes, summary
from benchmarks.faults.episodes import Reference
from benchmarks.faults.moments import Fault
from benchmarks.faults.processes import REPOSITORY, Place
from benchmarks.faults.scenarios import SCENARIOS, Scenario


def arguments(typed: Sequence[str] | None) -> argparse.Namespace:
    """Parse what was typed."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--kills", type=int, default=200, help="stop after so many, of all scenarios together (200)")
    made.add_argument("--seed", type=int, default=0, help="of all moments (0)")
    made.add_argument("--scenario", nargs="+", default=list(SCENARIOS), choices=list(SCENARIOS), metavar="NAME")
    made.add_argument("--first", type=int, default=0, help="number of the first episode of each scenario (0)")
    made.add_argument("--plan", help="one episode: PHASE@POINT or PHASE@POINT+SECONDS, separated by commas")
    made.add_argument(
        "--files", action="store_true", help="every distinct file operation once, instead of drawn moments"
    )
    made.add_argument("--real", action="store_true", help="run the real command, which imports everything each time")
    made.add_argument("--source", type=Path, default=REPOSITORY, help="checkout whose train.py is run (this one)")
    made.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    made.add_argument("--results", type=Path, default=Path("outputs/benchmarks/faults.jsonl"), help="file to add to")
    made.add_argument("--summary", action="store_true", help="only print the table of what is in the results' file")
    return made.parse_args(typed)


def plans_of(given: argparse.Namespace, scenario: Scenario, reference: Reference) -> Iterator[list[Fault]]:
    """Yield the plans of a scenario's episodes."""
    if given.plan is not None:
        yield [Fault.read(text) for text in filter(None, given.plan.split(","))]
    elif given.files:
        yield from plans.file_plans(reference)
    else:
        for number in count(given.first):
            draw = random.Random(f"{given.seed} {scenario.name} {number}")
            yield plans.draw_plan(draw, reference, number)


def grid(given: argparse.Namespace, folder: Path) -> None:
    """Play episodes of all scenarios in turn until there are kills enough, and write each down at once."""
    start = processes.real if given.real else processes.forked
    if not given.real:
        processes.warm_up(given.source.resolve())
    running: dict[str, tuple[Scenario, Place, Reference, Iterator[list[Fault]]]] = {}
    for name in given.scenario:
        scenario, place = SCENARIOS[name], Place(folder / name, given.source.resolve())
        prepare(scenario, place)
        reference = episodes.refer(scenario, place, start)
        add(given.results, {"scenario": name, "phases": reference.phases})
        running[name] = scenario, place, reference, plans_of(given, scenario, reference)
    done = 0
    while running and done < given.kills:
        for name in list(running):
            scenario, place, reference, coming = running[name]
            plan = next(coming, None)
            if plan is None:
                del running[name]
                continue
            episode = episodes.play(scenario, place, start, plan, reference)
            add(given.results, {**episodes.as_row(episode), "seed": given.seed})
            done += len(episode.kills)
            tell(episode, done)


def prepare(scenario: Scenario, place: Place) -> None:
    """Write the rows and fine-tune the teachers that a scenario is given."""
    place.folder.mkdir(parents=True, exist_ok=True)
    if scenario.data:
        data.write_all(place.folder / "data")
    if scenario.teachers:
        episodes.teachers_of(place, processes.forked, SCENARIOS["plain"], place.folder / "teachers")


def add(file: Path, row: dict) -> None:
    """Add a line to a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\n")


def tell(episode: episodes.Episode, done: int) -> None:
    """Print what became of an episode."""
    at = ", ".join(f"{kill['phase']} ({kill['what']})" for kill in episode.kills)
    print(f"{done:4d} {episode.scenario}: {','.join(episode.plan)}: {at}; {episode.seconds} s", flush=True)
    for line in episode.deviations:
        print(f"     {line}", flush=True)


def main(typed: Sequence[str] | None = None) -> None:
    """Play, and print the tables."""
    given = arguments(typed)
    if not given.summary:
        made = Path(tempfile.mkdtemp())  # no TemporaryDirectory: a forked run that ends would remove it
        try:
            grid(given, (given.folder or made).resolve())
        finally:
            shutil.rmtree(made)
    print(summary.text(summary.read(given.results)))


if __name__ == "__main__":
    main()
