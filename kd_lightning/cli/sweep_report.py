"""What a sweep leaves behind: one table over all its jobs, in files and on the terminal, and one picture."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kd_lightning.cli.sweep_jobs import Job, best, read_jobs, shared_metric, short_names, varying
from kd_lightning.cli.sweep_picture import draw_sweep
from kd_lightning.core.files import write_text
from kd_lightning.pipeline.report.results import ROLES

log = logging.getLogger(__name__)

Row: TypeAlias = dict[str, str]

_failures = 0


def last_failures() -> int:
    """Return how many jobs of this process's last sweep failed or went missing; 0 where there was no sweep.

    Hydra builds the callback below by itself and drops what it returns, so the count is kept here.
    """
    return _failures


class SweepReport(Callback):
    """Hydra callback that reads every job's folder when a sweep ends; it runs once, in the process that was started.

    A job's folder holds `metrics.json` if it finished and `error.txt` if it failed; each is a row of the table, and so
    is a folder with neither. An exception in here is logged, because Hydra would turn it into a warning.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Forget the sweep before."""
        _count(0)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the table and the picture into the sweep's folder, and print the table."""
        folder = Path(config.hydra.sweep.dir)
        try:
            jobs = read_jobs(folder)
            _count(sum(job.status != "ok" for job in jobs))
            if jobs:
                report(jobs, folder, Console())
        except Exception:
            log.exception("The report of the sweep in %s could not be written.", folder)


def _count(failures: int) -> None:
    global _failures
    _failures = failures


def report(jobs: Sequence[Job], folder: Path, console: Console) -> None:
    """Write `sweep.csv`, `sweep.md` and `sweep.png` into a folder, and print the table."""
    rows = full_rows(jobs)
    write_text(folder / "sweep.csv", _csv(rows))
    write_text(folder / "sweep.md", _markdown(rows))
    console.print(sweep_table(jobs))
    for job in jobs:
        if job.error:
            console.print(f"[red]job {job.name} failed:[/red] {escape(job.error)}", highlight=False)
    failed = sum(job.status != "ok" for job in jobs)
    told = f"{len(jobs)} jobs, {failed} without a result" if failed else f"{len(jobs)} jobs"
    console.print(f"{told}. Table and picture are in {escape(str(folder))}.", soft_wrap=True)
    draw_sweep(jobs, folder / "sweep.png")


def full_rows(jobs: Sequence[Job]) -> list[Row]:
    """Return one row per job with everything that was measured: `student/accuracy`, `seconds/teacher`, ….

    Columns that no job fills are left out, but job, status, best, seconds and error are always there.
    """
    winner = best(jobs)
    rows = [_full_row(job, varying(jobs), "yes" if job is winner else "") for job in jobs]
    columns = dict.fromkeys(["job", *varying(jobs), "status", "best", *(c for row in rows for c in row if "/" in c)])
    return [{column: row.get(column, "") for column in [*columns, "seconds", "error"]} for row in rows]


def _full_row(job: Job, keys: Sequence[str], mark: str) -> Row:
    row = {"job": job.name, **{key: job.overrides.get(key, "") for key in keys}, "status": job.status, "best": mark}
    for role in reversed(ROLES):
        entry = job.metrics.get(role) or {}
        row |= {f"{role}/{name}": _number(value) for name, value in (entry.get("metrics") or {}).items()}
        chosen = entry.get("selection") or {}
        row |= {f"{role}/selection/{name}": _number(value) for name, value in chosen.items()}
    row |= {f"seconds/{stage}": f"{value:.1f}" for stage, value in (job.metrics.get("seconds") or {}).items()}
    return row | {"seconds": "" if job.seconds is None else f"{job.seconds:.1f}", "error": job.error}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _markdown(rows: Sequence[Row]) -> str:
    """Return a table for a README, with the best row in bold and no column that is empty throughout."""
    columns = [column for column in rows[0] if column != "best" and any(row[column] for row in rows)]
    lines = [columns, ["---"] * len(columns), *([_cell(row, column) for column in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(row: Row, column: str) -> str:
    text = row[column].replace("|", "\\|")
    return f"**{text}**" if row["best"] and text else text


def sweep_table(jobs: Sequence[Job]) -> Table:
    """Return the table for the terminal: what varied, what became of it, and the metric that counts."""
    keys, winner, metric = varying(jobs), best(jobs), shared_metric(jobs)
    roles = [role for role in reversed(ROLES) if any(job.score(role) is not None for job in jobs)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=metric.name if metric else None)
    table.add_column("job", justify="right", no_wrap=True)
    for title in short_names(keys).values():
        table.add_column(escape(title), overflow="fold")
    table.add_column("status", no_wrap=True)
    held_out = ["selection"] if any(job.selection is not None for job in jobs) else []
    for title in (*roles, *held_out, "seconds"):
        table.add_column(title, justify="right", no_wrap=True)
    for job in jobs:
        cells = [job.name, *(job.overrides.get(key, "") for key in keys), job.status + (" ★" if job is winner else "")]
        scores = [job.score(role) for role in roles] + [job.selection for _ in held_out]
        cells += ["" if score is None else f"{score:.4f}" for score in scores]
        cells.append("" if job.seconds is None else f"{job.seconds:.0f}")
        table.add_row(*map(escape, cells), style="bold" if job is winner else "red" if job.status != "ok" else None)
    return table
