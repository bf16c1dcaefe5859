"""Peak memory of a training step, each contender in a process of its own.

python -m benchmarks.memory [--batch 16] [--length 128] [--rounds 3]

On a CPU: resident memory of the whole process before the steps and at their peak, as the system counts it (VmHWM, set
back before the steps). It includes Python and all libraries, ours and TextBrewer for every contender, and of a cache
those pages that were read. On a GPU: what torch has allocated.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import arguments, contenders
from benchmarks.contenders import LIVE, LIVE_MIXED, TEXTBREWER
from benchmarks.report import Row, Target, publish, target_rows
from benchmarks.setting import Setting
from benchmarks.timing import Contender, wait_for

TARGETS = (
    Target("live, bf16 teacher / TextBrewer", LIVE, TEXTBREWER, 0.80),
    Target("live, bf16 teacher, bf16-mixed / TextBrewer", LIVE_MIXED, TEXTBREWER, 0.80),
)
OWN = tuple(target._replace(what=f"the same, beyond libraries: {target.what}") for target in TARGETS)
"""What is left when the libraries, which every process has loaded, are taken off on both sides."""

UNTIMED = 2
"""Steps before measuring: the optimizer's state and all buffers are there then."""

FORWARD_ALONE = "teacher forward alone"


def resident(field: str = "VmRSS") -> float:
    """Return a line of `/proc/self/status` in MiB: `VmRSS` is resident now, `VmHWM` was at the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def reset_peak() -> bool:
    """Set the peak back to what is resident now; False where the system does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def tidy() -> None:
    """Give freed memory back to the system: what building the models left is not the steps'."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def measure(name: str, setting: Setting, steps: int, folder: Path) -> Row:
    """Return a contender's memory in MiB before and at the peak of some steps."""
    return levels(
        name, lambda: (contenders.BUILDERS[name](setting, folder), setting.make_batches()), steps, setting.device
    )


def levels(name: str, build: Callable[[], tuple[Contender, Sequence[Any]]], steps: int, device: str) -> Row:
    """Return the memory in MiB of libraries, before and at the peak of some steps.

    Args:
        name: of the contender.
        build: returns its step and its batches.
        steps: how many are measured, after `UNTIMED` others.
        device: where they run.

    """
    libraries = resident()
    step, batches = build()
    for number in range(UNTIMED):
        step(batches[number % len(batches)])
    before, exact = _before(device)
    for number in range(steps):
        step(batches[number % len(batches)])
    wait_for(device)
    on_gpu = device.startswith("cuda")
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if on_gpu else resident("VmHWM")
    found = {"libraries MiB": libraries, "before MiB": before, "peak MiB": peak, "step MiB": peak - before}
    return {"contender": name, **found, "peak was reset": exact}


def _before(device: str) -> tuple[float, bool]:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20, True
    tidy()
    exact = reset_peak()
    return resident(), exact


def in_own_process(name: str, setting: Setting, given: Namespace, folder: Path) -> Row:
    """Start this module again for one contender and return its row."""
    task = {"name": name, "setting": asdict(setting), "steps": given.rounds, "folder": str(folder)}
    return run_alone("memory", task, given.threads)


def run_alone(benchmark: str, task: Row, threads: int | None) -> Row:
    """Start a benchmark for one task, in a process of its own, and return the row that it prints last."""
    more = ["--threads", str(threads)] if threads is not None else []
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", "--one", json.dumps(task), *more]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def main(typed: Sequence[str] | None = None) -> Row:
    """Measure, print and write; with `--one`, measure one contender and print its row as JSON."""
    parser = arguments.parser("memory", __doc__, rounds=3)
    arguments.add_shape(parser, batch=16, length=128)
    names = [name for name in contenders.BUILDERS if not name.startswith(FORWARD_ALONE)]
    parser.add_argument("--contenders", nargs="+", choices=names, default=names)
    parser.add_argument("--one", type=json.loads, default=None, help="for the processes this one starts")
    given = arguments.parse(parser, typed, teacher="tiny", batch=2, length=8, rounds=1)
    if given.one is not None:
        task = given.one
        row = measure(task["name"], Setting(**task["setting"]), task["steps"], Path(task["folder"]))
        print(json.dumps(row))
        return row
    setting = Setting(given.teacher, given.batch, given.length, given.padding, 5, given.device)
    with contenders.scratch() as folder:
        contenders.prepare(given.contenders, setting, folder)
        rows = [in_own_process(name, setting, given, folder) for name in given.contenders]
    peaks = {row["contender"]: row["peak MiB"] for row in rows}
    for row in rows:
        row["ratio to TextBrewer"] = row["peak MiB"] / peaks[TEXTBREWER] if TEXTBREWER in peaks else None
    beyond = {row["contender"]: row["peak MiB"] - row["libraries MiB"] for row in rows}
    targets = target_rows(TARGETS, peaks) + target_rows(OWN, beyond)
    return publish("memory", given, {"rows": rows, "targets": targets})


if __name__ == "__main__":
    main()
