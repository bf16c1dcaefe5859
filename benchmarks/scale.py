"""How the cost of a step grows: with length, batch, matched layers and the teacher's depth; and a cache with its rows.

python -m benchmarks.scale [--axes length batch layers depth rows] [--rounds 5]

One thing varies at a time, from a base of 8 rows of 64 tokens and five matched layers. The teacher is of MiniLM's size
by default (6 layers of width 384), so that it takes minutes; `--teacher bert-base` for the larger one. The student is
T4-tiny.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import arguments, contenders, ours
from benchmarks.contenders import CACHED, LIVE, PLAIN, TEXTBREWER
from benchmarks.report import Row, publish, time_rows
from benchmarks.setting import Setting
from benchmarks.timing import interleaved

AXES = ("length", "batch", "layers", "depth", "rows")

VALUES: dict[str, list[int]] = {
    "length": [32, 64, 128, 256, 512],
    "batch": [1, 4, 16, 64],
    "layers": [0, 1, 3, 5],
    "depth": [2, 4, 8, 16],
    "rows": [64, 256, 1024],
}

TINY: dict[str, list[int]] = {"length": [4, 8], "batch": [1, 2], "layers": [0, 5], "depth": [2, 4], "rows": [4, 8]}


def settings(axis: str, base: Setting, values: Sequence[int]) -> Iterator[tuple[int, Setting]]:
    """Yield the base with one thing changed, for each value of an axis."""
    for value in values:
        changes: dict[str, dict[str, Any]] = {
            "length": {"length": value},
            "batch": {"rows": value},
            "layers": {"matched": value},
            "depth": {"changes": {"num_hidden_layers": value}},
        }
        yield value, replace(base, **changes[axis])


def step_rows(axis: str, base: Setting, values: Sequence[int], rounds: int, names: Sequence[str]) -> list[Row]:
    """Return a row per value and contender."""
    rows: list[Row] = []
    for value, setting in settings(axis, base, values):
        with contenders.scratch() as folder:
            steps = contenders.build(names, setting, folder)
            times = interleaved(steps, setting.make_batches(), rounds, device=base.device)
        found = time_rows(times, TextBrewer=TEXTBREWER, plain=PLAIN)
        rows += [{"axis": axis, "value": value} | row for row in found]
    return rows


def cache_rows(base: Setting, values: Sequence[int]) -> list[Row]:
    """Return bytes and build rate of a cache for some numbers of rows, with and without five layers."""
    rows: list[Row] = []
    for matched in (0, 5):
        for value in values:
            setting = replace(base, matched=matched)
            batches = setting.make_batches(max(1, value // base.rows))
            with contenders.scratch() as folder:
                start = time.perf_counter()
                path = ours.build_cache(setting, batches, folder / "cache", setting.teacher_addresses)
                seconds = time.perf_counter() - start
                rows.append(_cache_row(len(setting.pairs), len(batches) * base.rows, size_of(path), seconds))
    return rows


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _cache_row(layers: int, rows: int, size: int, seconds: float) -> Row:
    rate = {"build s": seconds, "rows/s": rows / seconds}
    return {"cached layers": layers, "rows": rows, "MiB": size / 2**20, "bytes per row": size // rows, **rate}


def main(typed: Sequence[str] | None = None) -> Row:
    """Measure, print and write."""
    parser = arguments.parser("scale", __doc__, rounds=5)
    arguments.add_shape(parser, batch=8, length=64, teacher="minilm-size")
    parser.add_argument("--axes", nargs="+", choices=AXES, default=[*AXES], help="what to vary; `rows` is the cache's")
    names = (TEXTBREWER, LIVE, CACHED, PLAIN)
    parser.add_argument("--contenders", nargs="+", choices=names, default=[*names])
    given = arguments.parse(parser, typed, teacher="tiny", batch=2, length=8, rounds=1)
    values = TINY if given.tiny else VALUES
    base = Setting(given.teacher, given.batch, given.length, given.padding, 5, given.device)
    steps = [axis for axis in given.axes if axis != "rows"]
    rows = [row for axis in steps for row in step_rows(axis, base, values[axis], given.rounds, given.contenders)]
    tables = {"rows": rows, "cache": cache_rows(base, values["rows"]) if "rows" in given.axes else []}
    note = f"Teacher: {given.teacher}. Base: {given.batch} rows of {given.length} tokens, five matched layers."
    return publish("scale", given, tables, note)


if __name__ == "__main__":
    main()
