"""Configurations drawn at random, each carried out by the command: accepted, refused in one sentence, or failed.

python -m benchmarks.fuzz [--seed 0] [--draws 500]

Groups and values are drawn from what the configurations offer, so a new option is drawn by itself. Each draw composes,
sets up and trains at least two steps of teacher and student on a few rows, in a warm process that is a fresh one every
25 draws. *Accepted*: two optimizer steps, and a finite loss and weights. *Fewer steps*: the run ended well before, as a
value asked. *Refused*: one sentence. *Failed*: a traceback, a hang, numbers that are not finite, or a value that was
typed and is not in the saved configuration. Results are lines of a file; what is there already is not done again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.fuzz.draws import Draw, draw_lines
from benchmarks.report import environment, table

OUTCOMES = ("accepted", "fewer steps", "refused", "failed")
FRESH = 25  # draws of one process
LIMIT = 120  # seconds of a draw
REPOSITORY = Path(__file__).resolve().parents[2]


class Worker:
    """A process that carries out draws, one after the other."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.done = 0
        given = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
                 "KD_CACHE": str(folder / "cache")}  # fmt: skip
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.fuzz.worker"], cwd=folder, env=given, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream, start_new_session=True,
            )  # fmt: skip

    def carry_out(self, draw: Draw) -> dict[str, Any]:
        """Return what became of a draw; a process that hangs or dies is a failure."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.done += 1
        job = {"number": draw.number, "typed": draw.typed, "drawn": draw.drawn}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        with selectors.DefaultSelector() as waiting:
            waiting.register(self.process.stdout, selectors.EVENT_READ)
            if not waiting.select(LIMIT + 30 * (self.done == 1)):
                self.end()
                return {"outcome": "failed", "said": f"no end after {LIMIT} seconds", "steps": 0, "seconds": LIMIT}
        answer = self.process.stdout.readline()
        if not answer:
            code = self.process.wait()
            return {"outcome": "failed", "said": f"the process died ({code})", "steps": 0, "seconds": 0}
        found: dict[str, Any] = json.loads(answer)
        return found

    @property
    def is_spent(self) -> bool:
        """Whether a fresh process should take over."""
        return self.done >= FRESH or self.process.poll() is not None

    def end(self) -> None:
        """Kill the process with all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def results(draws: Sequence[Draw], file: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield every draw with its outcome, and write those that are new as lines of the file."""
    known = {row["number"]: row for row in map(json.loads, file.read_text().splitlines())} if file.is_file() else {}
    worker: Worker | None = None
    for draw in draws:
        if draw.number in known and known[draw.number]["typed"] == draw.typed:
            yield known[draw.number]
            continue
        if worker is None or worker.is_spent:
            if worker is not None:
                worker.end()
            worker = Worker(folder, file.with_suffix(".log"))
        row = {"number": draw.number, "groups": draw.groups, "typed": draw.typed} | worker.carry_out(draw)
        with file.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        yield row
    if worker is not None:
        worker.end()


def by_group(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return how many draws that chose or changed something of a group came to which end; all draws last."""
    groups = sorted({group for row in rows for group in row["groups"]})
    every = {group: [row for row in rows if group in row["groups"]] for group in groups} | {"all": list(rows)}
    return [
        {"group": group, "draws": len(own), **{end: sum(row["outcome"] == end for row in own) for end in OUTCOMES}}
        for group, own in every.items()
    ]


def main(typed: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Draw, carry out, print; returns the table's rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of draws")
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), help="0 2: every second draw, from the first")
    parser.add_argument("--out", type=Path, default=Path("outputs/fuzz"), help="folder of results, data and caches")
    given = parser.parse_args(typed)
    folder = given.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    draws = draw_lines(given.draws, given.seed, folder / "data")
    draws = [draw for draw in draws if given.only is None or draw.number in given.only]
    draws = draws[given.part[0] :: given.part[1]]
    rows = []
    for row in results(draws, folder / f"seed-{given.seed}.jsonl", folder):
        rows.append(row)
        if row["outcome"] == "failed":
            print(f"draw {row['number']} failed: {shlex.join(row['typed'])}\n{row['said'].strip()[-400:]}", flush=True)
    found = by_group(rows)
    print(table(found))
    print(json.dumps(environment(given) | {"hypothesis": __import__("hypothesis").__version__}))
    return found


if __name__ == "__main__":
    main()
