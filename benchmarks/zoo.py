"""What a step of each method in `configs/method` costs: ours, and the same loop written by hand.

python -m benchmarks.zoo [--methods st,at] [--batch 128] [--rounds 9] [--csv FILE]

ResNet-56 teaches ResNet-20 in float32, random images of CIFAR's size. A method's objective is built from its file, as
`experiment=cifar10_small method=NAME` has it. Three contenders take turns, each with a whole step of SGD:

- ours: a `DistillationModule` with a live teacher, as a bare loop (what a Trainer adds: `benchmarks.images`);
- by hand: the same losses and the same trainable modules, on features that plain hooks keep (`benchmarks.by_hand`), so
  that ours / by hand is what objective, terms, taps and teacher source cost. Before anything is timed, both must have
  the same losses on one batch;
- plain: the student on labels, and where the method has a teacher its forward: ours / plain is what the method costs.

Peak memory is measured in a process of its own for each method, and given above the plain loop's. A schedule counts as
at the beginning of training. What a method changes beside the objective is not in its step.

Then two functions, value and gradient, against their references' formulations (`benchmarks.formulas`).
"""

from __future__ import annotations

import copy
import csv
import gc
import json
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate

import kd_lightning as kd
from benchmarks import arguments, formulas, ours
from benchmarks.by_hand import HandWritten, plain_step
from benchmarks.memory import levels, run_alone
from benchmarks.report import Row, Target, medians, publish, target_rows, time_rows, timed_target_rows
from benchmarks.timing import Contender, interleaved
from kd_lightning.cli.configs import CONFIGS, compose_config
from kd_lightning.core.types import RowInfo
from kd_lightning.training.optim import parameter_groups

OURS, BY_HAND, PLAIN = "ours", "by hand", "plain"
LIMIT = 1.08
ROWS = 50_000
"""Of the training set, for losses that keep something of each."""

METHOD, MS, COST, PEAK = "method", "ours ms", "ours / plain", "peak MiB above plain"
"""Columns that others read."""

NST_MEMORY, GIB = "memory of NST", "GiB"
FUNCTION_TARGETS = (
    Target("NST, batch 128, 64×8×8 maps: ours / as published", formulas.NST, formulas.NST_PUBLISHED, 1.0),
    Target("RKD angle, batch 128, width 64: ours / as published", formulas.ANGLE, formulas.ANGLE_PUBLISHED, 1.0),
)
MEMORY_TARGET = Target("NST, 16 maps of 64×64×64: GiB above its inputs", NST_MEMORY, GIB, 1.0)


@dataclass(frozen=True)
class Shape:
    """Depths of teacher and student, images per batch, and the device."""

    teacher: int = 56
    student: int = 20
    batch: int = 128
    device: str = "cpu"

    def models(self) -> tuple[Any, Any]:
        """Return teacher and student, the same weights every time."""
        torch.manual_seed(0)
        return kd.models.cifar_resnet(self.teacher), kd.models.cifar_resnet(self.student)

    def batches(self, count: int = 2) -> list[Row]:
        """Return batches on the CPU, the same every time; moving them is part of a step."""
        random = torch.Generator().manual_seed(0)
        return [
            {
                "pixel_values": torch.randn(self.batch, 3, 32, 32, generator=random),
                "labels": torch.randint(10, (self.batch,), generator=random),
                "sample_id": torch.arange(number * self.batch, (number + 1) * self.batch),
            }
            for number in range(count)
        ]


class Contest:
    """The contenders of one method, with the same weights.

    Args:
        method: a file of `configs/method`.
        shape: of models and batches.

    """

    def __init__(self, method: str, shape: Shape) -> None:
        config = compose_config(["experiment=cifar10_small", f"method={method}"])
        self.shape, self.sgd = shape, instantiate(config.optimizer)
        self.teacher, self.student = shape.models()
        rows = RowInfo(torch.arange(ROWS), torch.arange(ROWS) % 10)
        own, source = copy.deepcopy(self.student), kd.LiveTeacher(copy.deepcopy(self.teacher))
        self.module = kd.DistillationModule(own, source, instantiate(config.objective), rows=rows).to(shape.device)
        self.taught = bool(self.module.objective.teacher_addresses)

    def ours(self) -> Contender:
        """Return our step."""
        optimizer = self.sgd(parameter_groups(self.module.student, self.module.objective))
        return ours.distillation_step(self.module, self.shape.device, optimizer=optimizer)

    def by_hand(self) -> HandWritten:
        """Return the loop; to be called before the first step of ours, whose modules it copies."""
        teacher = copy.deepcopy(self.teacher) if self.taught else None
        student = copy.deepcopy(self.student)
        return HandWritten(student, teacher, self.module.objective, self.sgd, self.shape.device)

    def plain(self) -> Contender:
        """Return the student's step, with the teacher's forward where the method has a teacher."""
        return plain(self.shape, self.sgd, self.taught)


def plain(shape: Shape, sgd: Any, taught: bool) -> Contender:
    """Return the student's step on labels, with or without the teacher's forward."""
    teacher, student = shape.models()
    return plain_step(student, teacher if taught else None, sgd, shape.device)


def check_same_work(contest: Contest, loop: HandWritten) -> dict[str, tuple[float, float]]:
    """Return the losses of each term on one batch, ours and the loop's; both models have seen the batch then.

    Raises:
        AssertionError: where they differ by more than one part in ten thousand.

    """
    batch = ours.move(contest.shape.batches(1)[0], contest.shape.device)
    own, other = contest.module.compare(batch).parts, loop.parts(batch)
    found = {name: (own[name].item(), other[name].item()) for name in own}
    for name, (mine, theirs) in found.items():
        if not abs(mine - theirs) <= 1e-4 * abs(theirs) + 1e-7:
            raise AssertionError(f"Not the same work: our '{name}' is {mine:.6g}, by hand {theirs:.6g}.")
    return found


def method_names() -> list[str]:
    """Return every method that there is a file for."""
    return sorted(file.stem for file in (CONFIGS / "method").glob("*.yaml"))


def times_of(method: str, shape: Shape, rounds: int) -> tuple[dict[str, list[float]], bool]:
    """Return the seconds of the three contenders, and whether the method has a teacher."""
    contest = Contest(method, shape)
    loop = contest.by_hand()
    check_same_work(contest, loop)
    steps: dict[str, Contender] = {OURS: contest.ours(), BY_HAND: loop, PLAIN: contest.plain()}
    return interleaved(steps, shape.batches(), rounds, device=shape.device), contest.taught


def method_row(method: str, times: Mapping[str, Sequence[float]]) -> Row:
    """Return what is told of a method: milliseconds, and how ours compares."""
    judged, cost = Target("", OURS, BY_HAND, LIMIT), Target("", OURS, PLAIN, 0.0)
    (row,) = timed_target_rows([judged], times)
    middle = medians(times)
    return {
        METHOD: method,
        **{f"{name} ms": 1000 * middle[name] for name in (OURS, BY_HAND, PLAIN)},
        "ours / by hand": row["measured"],
        "by least times": row["by least times"],
        "met": row["met"],
        COST: cost.of(middle),
    }


def measure_methods(
    names: Sequence[str], shape: Shape, rounds: int, peak_of: Callable[[str], float] | None
) -> list[Row]:
    """Return a row per method; of one that cannot be measured, the error.

    Args:
        names: of the methods.
        shape: of models and batches.
        rounds: of each contender.
        peak_of: returns the MiB at the peak of a contender's steps, by name; None leaves memory out.

    """
    rows: list[Row] = []
    for name in names:
        try:
            times, taught = times_of(name, shape, rounds)
            row = method_row(name, times)
            if peak_of is not None:
                row[PEAK] = peak_of(name) - peak_of(PLAIN_TAUGHT if taught else PLAIN_ALONE)
        except Exception as error:  # the others are measured all the same
            row = {METHOD: name, "error": f"{type(error).__name__}: {error}"}
        rows.append(row)
        gc.collect()
    return rows


# -- memory ------------------------------------------------------------------------------------------------------------

PLAIN_TAUGHT, PLAIN_ALONE = "(plain)", "(plain, no teacher)"
"""Names that no method has."""


def in_own_process(name: str, shape: Shape, steps: int, threads: int | None) -> Row:
    """Start this module again for one contender, and return its levels of memory."""
    return run_alone("zoo", {"name": name, "shape": asdict(shape), "steps": steps}, threads)


def measure_memory(task: Row) -> Row:
    """Return the levels of memory of one contender, in this process."""
    name, shape = task["name"], Shape(**task["shape"])
    return levels(name, partial(_contender, name, shape), task["steps"], shape.device)


def _contender(name: str, shape: Shape) -> tuple[Contender, Sequence[Any]]:
    if name == NST_MEMORY:
        loss = formulas.value_and_gradient(formulas.FUNCTIONS[formulas.NST])
        return loss, formulas.pairs(shape.batch, 64, 64, 64, count=1, device=shape.device)
    if name in (PLAIN_TAUGHT, PLAIN_ALONE):
        sgd = instantiate(compose_config(["experiment=cifar10_small"]).optimizer)
        return plain(shape, sgd, name == PLAIN_TAUGHT), shape.batches()
    return Contest(name, shape).ours(), shape.batches()


# -- functions ---------------------------------------------------------------------------------------------------------


def times_of_functions(rounds: int, device: str, batch: int) -> dict[str, list[float]]:
    """Return the seconds of each function, value and gradient."""
    times: dict[str, list[float]] = {}
    for names, shape in (
        ((formulas.NST, formulas.NST_PUBLISHED), (batch, 64, 8, 8)),
        ((formulas.ANGLE, formulas.ANGLE_PUBLISHED), (batch, 64)),
    ):
        inputs = formulas.pairs(*shape, device=device)
        formulas.check_same_values(*names, inputs[0])
        steps = {name: formulas.value_and_gradient(formulas.FUNCTIONS[name]) for name in names}
        times |= interleaved(steps, inputs, rounds, device=device)
    return times


# -- the command -------------------------------------------------------------------------------------------------------


def main(typed: Sequence[str] | None = None) -> Row:
    """Measure, print and write; with `--one`, measure one contender's memory and print its row as JSON."""
    parser = arguments.parser("zoo", __doc__, rounds=9)
    parser.add_argument("--methods", type=lambda text: text.split(","), default=None, help="NAME,NAME,… (all)")
    parser.add_argument("--batch", type=int, default=128, help="images per batch (128)")
    parser.add_argument("--csv", type=Path, default=None, help="also write the methods' rows to this file")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave peak memory out")
    parser.add_argument("--one", type=json.loads, default=None, help="for the processes this one starts")
    given = arguments.parse(parser, typed, batch=4, rounds=1)
    if given.one is not None:
        row = measure_memory(given.one)
        print(json.dumps(row))
        return row
    known = method_names()
    if unknown := sorted({*(given.methods or ())} - {*known}):
        parser.error(f"there is no method {', '.join(unknown)}; there are {', '.join(known)}")
    shape = Shape(14, 8, given.batch, given.device) if given.tiny else Shape(batch=given.batch, device=given.device)
    rows = measure_methods(given.methods or known, shape, given.rounds, _peaks(shape, given) if given.memory else None)
    times = times_of_functions(5 * given.rounds, given.device, 4 if given.tiny else 128)  # they are short
    targets = [*largest(rows), *timed_target_rows(FUNCTION_TARGETS, times)]
    if given.memory:
        maps = Shape(batch=2 if given.tiny else 16, device=given.device)
        used = in_own_process(NST_MEMORY, maps, 1, given.threads)["step MiB"]
        targets += target_rows([MEMORY_TARGET], {NST_MEMORY: used, GIB: 1024.0})
    if given.csv is not None:
        write_csv(given.csv, rows)
    note = f"ResNet-{shape.teacher} teaches ResNet-{shape.student}, batches of {shape.batch}, {given.device}."
    return publish("zoo", given, {"rows": rows, "functions": time_rows(times), "targets": targets}, note)


def _peaks(shape: Shape, given: Namespace) -> Callable[[str], float]:
    found: dict[str, float] = {}

    def peak_of(name: str) -> float:
        if name not in found:
            found[name] = in_own_process(name, shape, min(given.rounds, 3), given.threads)["peak MiB"]
        return found[name]

    return peak_of


def largest(rows: Sequence[Row]) -> list[Row]:
    """Return a row for the method whose ratio to the hand-written loop is largest; none where nothing was measured."""
    measured = [row for row in rows if "error" not in row]
    if not measured:
        return []
    most = max(measured, key=lambda row: row["ours / by hand"])
    what = f"ours / by hand, the largest of {len(measured)} methods ({most[METHOD]})"
    told = {"measured": most["ours / by hand"], "met": most["met"], "by least times": most["by least times"]}
    return [{"target": what, "at most": LIMIT, **told}]


def write_csv(file: Path, rows: Sequence[Row]) -> None:
    """Write rows with the columns of all of them, numbers with six digits."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


if __name__ == "__main__":
    main()
