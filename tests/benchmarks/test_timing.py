"""Taking turns, medians and ratios, on a clock that is ours to turn."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.phases import Phases
from benchmarks.report import Target, cell, medians, table, target_rows, time_rows, timed_target_rows
from benchmarks.timing import interleaved, ratio, spread, turns


class Clock:
    """Stands still but for what the work says it took."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> Any:
        def step(_: Any) -> None:
            self.now += seconds

        return step


def test_every_round_begins_one_contender_later():
    assert [turns("abc", number) for number in range(4)] == [list("abc"), list("bca"), list("cab"), list("abc")]


def test_contenders_take_turns_on_the_same_batch_and_warm_up_untimed():
    seen: list[tuple[str, int]] = []
    contenders = {name: lambda batch, name=name: seen.append((name, batch)) for name in "ab"}
    times = interleaved(contenders, [10, 20], rounds=3, warmup=1)
    timed = seen[2:]
    assert timed == [("a", 10), ("b", 10), ("b", 20), ("a", 20), ("a", 10), ("b", 10)]
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3}


def test_known_times_give_known_ratios():
    clock = Clock()
    times = interleaved({"slow": clock.work(4.0), "fast": clock.work(1.0)}, [None], rounds=4, clock=clock)
    assert times == {"slow": [4.0] * 4, "fast": [1.0] * 4}
    assert ratio(times, "fast", "slow") == 0.25
    assert ratio(times, "fast", "missing") is None
    slow, fast = time_rows(times, slow="slow")
    assert (slow["median ms"], slow["ratio to slow"]) == (4000, 1)
    assert (fast["median ms"], fast["ratio to slow"]) == (1000, 0.25)


def test_spread_is_that_of_the_definition():
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == (3.0, 1.0, 2.0, 4.0, 5)
    assert spread([7.0]) == (7.0, 7.0, 7.0, 7.0, 1)
    assert medians({"a": [1.0, 9.0, 2.0]}) == {"a": 2.0}


@pytest.mark.parametrize(("limit", "met"), [(0.5, True), (0.25, True), (0.2, False)])
def test_a_target_is_met_up_to_its_limit(limit, met):
    (row,) = target_rows([Target("fast / slow", "fast", "slow", limit)], {"fast": 1.0, "slow": 4.0})
    assert row == {"target": "fast / slow", "at most": limit, "measured": 0.25, "met": met}


def test_a_targets_least_times_stand_beside_its_medians():
    times = {"fast": [1.0, 2.0, 3.0], "slow": [4.0, 4.0, 40.0]}
    (row,) = timed_target_rows([Target("fast / slow", "fast", "slow", 0.4)], times)
    assert (row["measured"], row["met"], row["by least times"]) == (0.5, False, 0.25)


def test_a_target_without_its_contender_is_neither_met_nor_missed():
    (row,) = target_rows([Target("fast / slow", "fast", "slow", 0.5)], {"fast": 1.0})
    assert (row["measured"], row["met"]) == (None, None)


def test_a_table_has_the_columns_of_all_rows():
    assert table([{"a": 1, "b": True}, {"a": 0.12345, "c": None}]).splitlines() == [
        "| a | b | c |",
        "| --- | --- | --- |",
        "| 1 | yes | – |",
        "| 0.123 | – | – |",
    ]
    assert [cell(value) for value in (1234.5, 12345, "x", False)] == ["1234", "12,345", "x", "no"]


def test_a_phase_inside_another_is_taken_off_it():
    clock = Clock()
    phases = Phases(clock=clock)
    with phases.phase("outer"):
        clock.now += 1
        with phases.phase("inner"):
            clock.now += 2
            with phases.phase("inner"):
                clock.now += 4
        clock.now += 8
    assert phases.seconds == {"outer": 9, "inner": 6}
