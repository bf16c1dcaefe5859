"""Where a step of ours spends its time: teacher, student, projections, losses, backward, optimizer, reading the cache.

python -m benchmarks.profile [--rounds 10] [--operators 12]

Parts are timed separately, in the step itself; a part inside another is taken off the outer one (projections are
called by the objective). What no part claims, such as moving the batch and clearing gradients, is "not attributed".
Backward is that of student, projections and losses together. With `--operators`, torch's profiler also lists what the
most expensive operators cost by themselves; it slows the step down, so its times are not the table's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import kd_lightning as kd
from benchmarks import arguments, contenders, ours
from benchmarks.models import Batch
from benchmarks.peers import precision_context
from benchmarks.phases import Phases, TimedTeacher
from benchmarks.report import Row, publish
from benchmarks.setting import Setting
from benchmarks.timing import Contender, timed

PARTS = ("reading the cache", "teacher forward", "student forward", "projections", "losses", "backward", "optimizer")
REST = "not attributed"

WARMUP = 2


def watched_step(module: kd.DistillationModule, phases: Phases, device: str, mixed: bool) -> Contender:
    """Return a step of a module, with its parts timed."""
    optimizer, autocast = module.configure_optimizers(), precision_context(device, mixed)
    module.forward = phases.timing("student forward", module.forward)  # type: ignore[method-assign]
    phases.watch("losses", module.objective)
    for projection in module.objective.projections().values():
        phases.watch("projections", projection)

    def step(batch: Batch) -> None:
        moved = ours.move(module.prepare(batch), device)
        with autocast():
            loss = module.compare(moved).total
        with phases.phase("backward"):
            loss.backward()
        with phases.phase("optimizer"):
            optimizer.step()
        optimizer.zero_grad()

    return step


def sources(setting: Setting, folder: Path) -> dict[str, tuple[str, Callable[[], kd.TeacherSource]]]:
    """Return each kind of teacher: what its answers are called in the table, and how to make it."""
    cached = partial(contenders.cache_of, setting, folder)
    return {
        "live": ("teacher forward", partial(ours.live_teacher, setting)),
        "cached": ("reading the cache", lambda: kd.CachedTeacher(cached())),
    }


def profile(kind: str, setting: Setting, folder: Path, rounds: int, mixed: bool, operators: int) -> list[list[Row]]:
    """Return the parts of one kind of step, and its most expensive operators."""
    name, make = sources(setting, folder)[kind]
    phases = Phases(setting.device)
    module = ours.make_module(setting, TimedTeacher(make(), phases, name))
    step, batches = watched_step(module, phases, setting.device, mixed), setting.make_batches()
    for number in range(WARMUP):
        step(batches[number % len(batches)])
    phases.seconds.clear()
    total = sum(timed(partial(step, batches[n % len(batches)]), setting.device) for n in range(rounds))
    here = {"teacher": kind, "student": "bf16-mixed" if mixed else "fp32"}
    parts = [here | row for row in part_rows(phases.seconds, total, rounds)]
    return [parts, [here | row for row in operator_rows(partial(step, batches[0]), operators)]]


def part_rows(seconds: dict[str, float], total: float, steps: int) -> list[Row]:
    """Return a row per part: milliseconds of one step and share of it; the last is what no part claims."""
    claimed = {name: seconds[name] for name in PARTS if name in seconds}
    claimed[REST] = total - sum(claimed.values())
    claimed["whole step"] = total
    return [
        {"part": name, "ms": 1000 * spent / steps, "percent": 100 * spent / total} for name, spent in claimed.items()
    ]


def operator_rows(step: Callable[[], object], count: int) -> list[Row]:
    """Return the operators that cost most by themselves in one step."""
    if not count:
        return []
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        start = time.perf_counter()
        step()
        spent = time.perf_counter() - start
    events: Any = [event for event in profiler.key_averages() if event.key not in PARTS]
    own = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    events = sorted(events, key=lambda event: -getattr(event, own))[:count]
    return [
        {
            "operator": event.key,
            "calls": event.count,
            "ms": getattr(event, own) / 1000,
            "percent": getattr(event, own) / 1e4 / spent,
        }
        for event in events
    ]


def main(typed: Sequence[str] | None = None) -> Row:
    """Measure, print and write."""
    parser = arguments.parser("profile", __doc__, rounds=10)
    arguments.add_shape(parser, batch=16, length=128)
    parser.add_argument("--kinds", nargs="+", choices=("live", "cached"), default=["live", "cached"])
    parser.add_argument("--operators", type=int, default=0, help="list this many operators, too (0)")
    given = arguments.parse(parser, typed, teacher="tiny", batch=2, length=8, rounds=2)
    setting = Setting(given.teacher, given.batch, given.length, given.padding, 5, given.device)
    parts: list[Row] = []
    operators: list[Row] = []
    with contenders.scratch() as folder:
        for kind in given.kinds:
            for mixed in (False, True):
                found = profile(kind, setting, folder, given.rounds, mixed, given.operators)
                parts += found[0]
                operators += found[1]
    return publish("profile", given, {"rows": parts, "operators": operators})


if __name__ == "__main__":
    main()
