"""What methods cost, as a sentence or a table for the docs, from the CSV file of `benchmarks.zoo`.

python -m benchmarks.costs ZOO.csv [METHOD]
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.methods import read_rows
from benchmarks.report import Row, cell, table
from benchmarks.zoo import COST, METHOD, PEAK


def sentence(row: Mapping[str, str]) -> str:
    """Return what a method costs in a sentence."""
    cost, peak = cell(float(row[COST])), cell(float(row[PEAK]))
    return f"A step of `method={row[METHOD]}` takes {cost} × student and teacher, with {peak} MiB more at the peak."


def cost_rows(rows: Sequence[Mapping[str, str]]) -> list[Row]:
    """Return a row per method that was measured, the cheapest first."""
    measured = sorted((row for row in rows if row[COST]), key=lambda row: float(row[COST]))
    return [
        {"method": f"`{row[METHOD]}`", "time": float(row[COST]), "MiB more at the peak": float(row[PEAK])}
        for row in measured
    ]


def main(typed: Sequence[str] | None = None) -> None:
    """Print the sentence of one method, or the table of all."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.costs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("times", type=Path, help="a CSV file of benchmarks.zoo")
    parser.add_argument("method", nargs="?", help="one of its methods (all)")
    given = parser.parse_args(typed)
    rows = {row[METHOD]: row for row in read_rows(given.times, (METHOD, COST, PEAK))}
    if given.method is None:
        print(table(cost_rows([*rows.values()])))
    elif given.method in rows:
        print(sentence(rows[given.method]))
    else:
        parser.error(f"{given.times} has no method {given.method}; it has {', '.join(rows)}")


if __name__ == "__main__":
    main()
