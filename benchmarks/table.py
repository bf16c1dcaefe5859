"""Rows for RESULTS.md out of finished runs: `python -m benchmarks.table RUN_DIR …`.

Nothing in the table is typed by hand: metrics, sizes and seconds come from each run's `metrics.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROLES = {"teacher": "teacher", "alone": "student alone", "student": "student distilled"}


def rows(run: Path) -> list[str]:
    """Return one Markdown row per model of a run."""
    metrics = json.loads((run / "metrics.json").read_text())
    return [_row(run.name, role, metrics) for role in ROLES if role in metrics]


def _row(name: str, role: str, metrics: dict[str, Any]) -> str:
    entry, config = metrics[role], metrics["config"]
    seconds = metrics["seconds"].get(role, 0)
    cells = (
        name,
        ROLES[role],
        ", ".join(f"{entry['metrics'][metric]:.4f}" for metric in _main_metrics(config)),
        f"{entry['parameters'] / 1e6:.1f} M",
        f"{seconds:.0f}" if seconds else "reused",
        config["trainer"]["precision"],
        config["seed"],
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def _main_metrics(config: dict[str, Any]) -> list[str]:
    """Return the main metric, or where there are several tasks that of each."""
    tasks = config.get("tasks") or {}
    return [f"{name}/{task['task']['metric']}" for name, task in tasks.items()] or [config["task"]["metric"]]


def main(folders: list[str]) -> None:
    """Print the table."""
    print("| run | model | metric | parameters | seconds | precision | seed |\n|---|---|---|---|---|---|---|")
    for folder in folders:
        print("\n".join(rows(Path(folder))))


if __name__ == "__main__":
    main(sys.argv[1:])
