"""What a benchmark leaves: Markdown tables on the screen, and a JSON file with rows, command and environment.

python -m benchmarks.report FILE.json

prints the tables of such a file again, and below them what they were measured on.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import platform
import shlex
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch

from benchmarks.timing import Spread, ratio, spread

Row: TypeAlias = dict[str, Any]

PACKAGES = ("torch", "transformers", "lightning", "textbrewer")


class Target(NamedTuple):
    """What is promised: a quotient of two measured things is at most `limit`."""

    what: str
    top: str
    bottom: str
    limit: float

    def of(self, values: Mapping[str, float]) -> float | None:
        """Return the quotient, or None where one of the two was not measured."""
        return values[self.top] / values[self.bottom] if {self.top, self.bottom} <= values.keys() else None


def environment(arguments: Namespace | Mapping[str, Any]) -> Row:
    """Return everything needed to know what the rows were measured on, and how to measure them again."""
    given = vars(arguments) if isinstance(arguments, Namespace) else dict(arguments)
    return {
        **{package: version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "cpu": cpu_model(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "arguments": {name: str(value) if isinstance(value, Path) else value for name, value in given.items()},
        "command": shlex.join(sys.orig_argv),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def version(package: str) -> str | None:
    """Return a package's version, or None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    """Return what the system calls its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def time_rows(times: Mapping[str, Sequence[float]], **bases: str) -> list[Row]:
    """Return a row per contender: milliseconds, their spread, and ratios to other contenders.

    Args:
        times: seconds by contender.
        bases: `plain="plain fine-tuning"` adds a column `ratio to plain`.

    """
    rows = []
    for name, seconds in times.items():
        ratios = {f"ratio to {short}": ratio(times, name, base) for short, base in bases.items()}
        rows.append({"contender": name, **milliseconds(spread(seconds)), **ratios})
    return rows


def milliseconds(seconds: Spread) -> Row:
    """Return the cells for a spread of seconds."""
    names = ("median ms", "min ms", "lower quartile ms", "upper quartile ms")
    return {name: 1000 * value for name, value in zip(names, seconds[:4], strict=True)} | {"rounds": seconds.count}


def target_rows(targets: Sequence[Target], values: Mapping[str, float]) -> list[Row]:
    """Return a row per target: what was measured, and whether that meets it; both None where something is missing."""
    return [_target_row(target, target.of(values)) for target in targets]


def timed_target_rows(targets: Sequence[Target], times: Mapping[str, Sequence[float]]) -> list[Row]:
    """Return a row per target, measured by medians; beside it what the least times say, which busy minutes spare."""
    middle, least = medians(times), {name: min(seconds) for name, seconds in times.items()}
    return [_target_row(target, target.of(middle)) | {"by least times": target.of(least)} for target in targets]


def _target_row(target: Target, measured: float | None) -> Row:
    met = measured <= target.limit if measured is not None else None
    return {"target": target.what, "at most": target.limit, "measured": measured, "met": met}


def medians(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median of each contender's seconds."""
    return {name: spread(seconds).median for name, seconds in times.items()}


def table(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table, with the columns of all rows in order of appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns), *([cell(row.get(name)) for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any) -> str:
    """Return a value as text: three significant digits for fractions, yes and no, a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def publish(name: str, arguments: Namespace, tables: Mapping[str, Sequence[Row]], note: str = "") -> Row:
    """Print the tables and write them to `arguments.json`; returns what was written.

    Args:
        name: of the benchmark.
        arguments: as typed; `json` says where the file goes.
        tables: rows by the table's name; the first is called `rows`.
        note: a line above the tables.

    """
    result = {"benchmark": name, "note": note, "environment": environment(arguments), **tables}
    file = Path(arguments.json)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    print(f"{shown(result)}\n\n{file}")
    return result


def shown(result: Mapping[str, Any]) -> str:
    """Return the note and the tables of what `publish` wrote."""
    tables = [value for name, value in result.items() if name not in ("benchmark", "note", "environment") and value]
    return "\n\n".join([*([result["note"]] if result["note"] else []), *map(table, tables)])


def main(typed: Sequence[str] | None = None) -> None:
    """Print a file's tables, and what they were measured on."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=main.__doc__)
    parser.add_argument("file", type=Path, help="what a benchmark wrote")
    result = json.loads(parser.parse_args(typed).file.read_text(encoding="utf-8"))
    where = result["environment"]
    device = where["cuda"] if str(where["arguments"].get("device")).startswith("cuda") else where["cpu"]
    versions = ", ".join(f"{package} {where[package]}" for package in ("torch", "lightning"))
    print(f"{shown(result)}\n\nMeasured {where['date'][:10]} on {device}, {where['threads']} thread(s); {versions}.")


if __name__ == "__main__":
    main()
