"""Tables of a file of episodes: kills by phase and scenario, and what deviated."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults.moments import PHASES
from benchmarks.report import Row, table


def read(file: Path) -> list[Row]:
    """Return the lines of a file of episodes; none where it does not exist."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def kills(rows: Sequence[Row]) -> list[Row]:
    """Return a row per phase, with the kills of each scenario; `none` where the scenario has no such phase."""
    episodes = [row for row in rows if "plan" in row]
    phases = {row["scenario"]: row["phases"] for row in rows if "phases" in row}
    counts = Counter((row["scenario"], kill["phase"]) for row in episodes for kill in row["kills"])
    names = list(dict.fromkeys(row["scenario"] for row in episodes))
    made: list[Row] = []
    for phase in PHASES:
        cells = {n: counts[n, phase] if phase in phases.get(n, PHASES) or counts[n, phase] else "none" for n in names}
        made.append({"phase": phase, **cells, "all": sum(counts[name, phase] for name in names)})
    total = {name: sum(counts[name, phase] for phase in PHASES) for name in names}
    return [*made, {"phase": "all", **total, "all": sum(total.values())}]


def deviations(rows: Sequence[Row]) -> list[Row]:
    """Return a row per kind of deviation: in how many episodes, and the command that shows one."""
    found: dict[str, list[tuple[Row, str]]] = {}
    for row in rows:
        for line in row.get("deviations", ()):
            found.setdefault(line.partition(":")[0], []).append((row, line))
    return [_deviation(kind, several) for kind, several in found.items()]


def _deviation(kind: str, found: Sequence[tuple[Row, str]]) -> Row:
    row, line = min(found, key=lambda pair: len(pair[0]["plan"]))
    count = len({id(row) for row, _ in found})
    text = line.partition(":")[2].strip().replace("\n", " ").replace("|", "/")
    return {"deviation": kind, "episodes": count, "for example": text[:160], "to see it": command_of(row)}


def command_of(row: Row) -> str:
    """Return what to type to see an episode again."""
    whole = " --real" if row["real"] else ""
    return f"python -m benchmarks.faults --scenario {row['scenario']} --plan {','.join(row['plan'])}{whole}"


def text(rows: Sequence[Row]) -> str:
    """Return both tables, and what was done, as Markdown."""
    episodes = [row for row in rows if "plan" in row]
    clean = sum(not row["deviations"] for row in episodes)
    done: Any = sum(len(row["kills"]) for row in episodes)
    actual = sum(len(row["kills"]) for row in episodes if row["real"])
    torn = sum("half" in kill["what"] for row in episodes for kill in row["kills"])
    line = (
        f"{done} kills in {len(episodes)} runs ({actual} kills of the real command, the others forked; {torn} amid a "
        f"file); {clean} runs ended like one never killed, {len(episodes) - clean} did not."
    )
    differing = deviations(rows)
    return "\n\n".join([line, table(kills(rows)), *([table(differing)] if differing else [])])
