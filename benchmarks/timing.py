"""Measuring contenders against each other: they take turns, so that a busy minute hits all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch

Contender: TypeAlias = Callable[[Any], object]
"""Does one whole step on a batch."""


class Spread(NamedTuple):
    """What a number of times amount to, in the unit they were given in."""

    median: float
    least: float
    lower: float
    upper: float
    count: int


def turns(names: Sequence[str], round_number: int) -> list[str]:
    """Return the order of a round: each round begins one contender later than the last."""
    start = round_number % len(names)
    return [*names[start:], *names[:start]]


def interleaved(
    contenders: Mapping[str, Contender],
    batches: Sequence[Any],
    rounds: int,
    warmup: int = 2,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Run all contenders one after the other, round after round, and return the seconds of each.

    Args:
        contenders: one whole step each, by name.
        batches: taken in turn; within a round all contenders get the same one.
        rounds: how often each is timed.
        warmup: untimed rounds before.
        device: on `cuda` the device's work is waited for before and after each step.
        clock: returns seconds.

    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warmup, rounds):
        batch = batches[number % len(batches)]
        for name in turns(names, number):
            spent = timed(partial(contenders[name], batch), device, clock)
            if number >= 0:
                seconds[name].append(spent)
    return seconds


def timed(work: Callable[[], object], device: str = "cpu", clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of one call, with all it started on the device."""
    wait_for(device)
    start = clock()
    work()
    wait_for(device)
    return clock() - start


def wait_for(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def spread(values: Sequence[float]) -> Spread:
    """Return median, minimum and quartiles; of a single value it is all of these."""
    ordered = sorted(values)
    if len(ordered) == 1:
        return Spread(*ordered * 4, 1)
    lower, median, upper = statistics.quantiles(ordered, n=4, method="inclusive")
    return Spread(median, ordered[0], lower, upper, len(ordered))


def ratio(times: Mapping[str, Sequence[float]], name: str, base: str) -> float | None:
    """Return one contender's median as a multiple of another's; None where either was not measured."""
    if name not in times or base not in times:
        return None
    return statistics.median(times[name]) / statistics.median(times[base])
