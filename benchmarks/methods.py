"""Methods set beside each other, drawn from a sweep's file: what each gains, and whether seeds can tell it.

python -m benchmarks.methods SWEEP.csv [--column way --base plain] [--published EXPERIMENT] [--times ZOO.csv]
    [--picture FILE.png]

SWEEP.csv is the `sweep.csv` of `python train.py -m experiment=… method=alone,st,at,… seed=0,1,2`, or of a sweep over
what another column names, such as `+way=plain,tinybert,…`. One row per method, the best mean first. Accuracies are in
percent, of the test rows, and ± is the sample deviation over seeds. Gains are differences of two runs with one seed,
over `alone` and over the base (`st`), and their deviation is that of the differences; a method is told apart from the
base where its mean gain is more than two standard errors from zero. Seconds are those of all stages that train a
student. `--published` takes accuracies from `published.accuracy` of an experiment, `--times` what a step costs from the
CSV file of `benchmarks.zoo`.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from omegaconf import OmegaConf

from benchmarks.report import Row, table
from benchmarks.zoo import METHOD, MS, PEAK
from kd_lightning.cli.configs import compose_config
from kd_lightning.core.files import write_figure
from kd_lightning.pipeline.report import pictures

ALONE, ST = "alone", "st"
METRIC = "student/accuracy"
SECONDS, NO_STUDENT = "seconds/", ("teacher", "cache", ALONE)


class Mean(NamedTuple):
    """A mean over seeds, and the sample deviation; NaN of a single one."""

    mean: float
    deviation: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """Return that of some values, of which there is at least one."""
        deviation = statistics.stdev(values) if len(values) > 1 else math.nan
        return cls(statistics.fmean(values), deviation, len(values))

    @property
    def error(self) -> float:
        """The standard error."""
        return self.deviation / math.sqrt(self.seeds)

    @property
    def is_zero(self) -> bool | None:
        """Whether it is within two standard errors of zero; None where a single value cannot tell."""
        return None if math.isnan(self.deviation) else abs(self.mean) <= 2 * self.error

    def text(self, sign: str = "") -> str:
        """Return it as `mean ± deviation` with two decimals."""
        return f"{self.mean:{sign}.2f}" + ("" if math.isnan(self.deviation) else f" ± {self.deviation:.2f}")


@dataclass
class Runs:
    """All runs of one method, by seed."""

    scores: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    """What became of the runs that have no result."""

    def gain(self, other: Runs | None) -> Mean | None:
        """Return the gain over another method, of the seeds that both have; None where there are none."""
        seeds = [seed for seed in self.scores if other is not None and seed in other.scores]
        return Mean.of([self.scores[seed] - other.scores[seed] for seed in seeds]) if other and seeds else None


def read_sweep(file: Path, column: str = METHOD) -> dict[str, Runs]:
    """Return the runs of each method in a sweep's file.

    Args:
        file: a sweep's `sweep.csv`.
        column: the one that names methods.

    Raises:
        SystemExit: with a sentence, if the file has not what is needed.

    """
    rows = read_rows(file, (column, "seed", "status", METRIC))
    found: dict[str, Runs] = {}
    for row in rows:
        runs, seed = found.setdefault(row[column], Runs()), row["seed"]
        score = _number(row[METRIC])
        if row["status"] != "ok" or score is None:
            told = row["status"] if row["status"] != "ok" else f"no {METRIC}"
            runs.lost[seed] = ": ".join(filter(None, [told, row.get("error") or ""]))
        elif seed in runs.scores:
            raise SystemExit(f"{file} has two results of {column} {row[column]} with seed {seed}: leave one out.")
        else:
            runs.scores[seed] = 100 * score
            seconds = _seconds(row)
            runs.seconds |= {} if seconds is None else {seed: seconds}
    for runs in found.values():
        for seed in dict.fromkeys(row["seed"] for row in rows):
            if seed not in runs.scores:
                runs.lost.setdefault(seed, "not run")
    return found


def _seconds(row: Mapping[str, str]) -> float | None:
    stages = [column for column in row if column.startswith(SECONDS) and column[len(SECONDS) :] not in NO_STUDENT]
    spent = [seconds for seconds in map(_number, map(row.get, stages)) if seconds is not None]
    return sum(spent) if spent else _number(row.get("seconds"))


def read_rows(file: Path, needed: Iterable[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV file.

    Raises:
        SystemExit: with a sentence, if it cannot be read, or has not all columns that are needed.

    """
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            reader = csv.DictReader(opened)
            rows, columns = list(reader), reader.fieldnames or ()
    except OSError as error:
        raise SystemExit(f"{file} cannot be read: {error.strerror}.") from None
    if missing := [name for name in needed if name not in columns]:
        what = " and ".join(f"'{name}'" for name in missing)
        raise SystemExit(
            f"{file} has no column {what}: it must be the sweep.csv of a sweep over method=… and seed=…, or of "
            "benchmarks.zoo, and a sweep's file has a column only for what varied."
        )
    return rows


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def published(experiment: str) -> dict[str, float]:
    """Return the published accuracies of an experiment, in percent by method.

    Raises:
        SystemExit: with a sentence, if it has none.

    """
    found = OmegaConf.select(compose_config([f"experiment={experiment}"]), "published.accuracy")
    if not found:
        raise SystemExit(f"The experiment {experiment} has no published.accuracy.")
    return {str(name): float(value) for name, value in found.items()}


def ranked(runs: Mapping[str, Runs]) -> list[str]:
    """Return the methods, the best mean first, those without a result last."""
    return sorted(runs, key=lambda name: -Mean.of([*runs[name].scores.values()]).mean if runs[name].scores else 1.0)


def method_rows(
    runs: Mapping[str, Runs],
    others: Mapping[str, float] | None = None,
    times: Mapping[str, Mapping[str, str]] | None = None,
    column: str = METHOD,
    base: str = ST,
) -> list[Row]:
    """Return a row per method.

    Args:
        runs: by method.
        others: published accuracies by method.
        times: rows of `benchmarks.zoo` by method.
        column: what a method is called in the table.
        base: the method that gains are over, beside `alone`.

    """
    return [{column: name} | _method_row(name, runs, others, times, base) for name in ranked(runs)]


def _method_row(
    name: str,
    runs: Mapping[str, Runs],
    others: Mapping[str, float] | None,
    times: Mapping[str, Mapping[str, str]] | None,
    base: str,
) -> Row:
    own = runs[name]
    row: Row = {"runs": _count(own), "accuracy": None}
    if own.scores:
        row["accuracy"] = Mean.of([*own.scores.values()]).text()
    gains = {other: own.gain(runs.get(other)) if name != other else None for other in (ALONE, base)}
    row |= {f"gain over {other}": gain.text("+") if gain else None for other, gain in gains.items()}
    over = gains[base]
    row[f"told apart from {base}"] = None if over is None or over.is_zero is None else not over.is_zero
    row["seconds"] = round(statistics.fmean(own.seconds.values())) if own.seconds else None
    if times is not None:
        told = times.get(name, {})
        row |= {"ms per step": _number(told.get(MS)), "peak MiB above plain": _number(told.get(PEAK))}
    if others is not None:
        row["published"] = f"{others[name]:.2f}" if name in others else ""
    return row


def _count(runs: Runs) -> str:
    lost = len(set(runs.lost) - set(runs.scores))
    return f"{len(runs.scores)} of {len(runs.scores) + lost}" if lost else str(len(runs.scores))


def notes(runs: Mapping[str, Runs], base: str = ST) -> list[str]:
    """Return a sentence for each run without a result, and for a base of gains that is not there."""
    found = [
        f"{name}, seed {seed}: {what.rstrip('.')}{'; another run has a result' if seed in runs[name].scores else ''}."
        for name in ranked(runs)
        for seed, what in runs[name].lost.items()
    ]
    missing = [other for other in (ALONE, base) if other not in runs or not runs[other].scores]
    return found + [f"There is no result of {other}, and so no gain over it." for other in missing]


def draw(runs: Mapping[str, Runs], others: Mapping[str, float] | None, file: Path, base: str = ST) -> None:
    """Draw the gains over the base with two standard errors, and published ones beside them, into a PNG file."""
    names = [name for name in reversed(ranked(runs)) if name != base]
    gains = {name: runs[name].gain(runs.get(base)) for name in names}
    figure = pictures.new_figure(7.0, 1.4 + 0.3 * len(names))
    axes = figure.add_subplot()
    axes.axvline(0, color=pictures.TEACHER, linewidth=1)
    for place, name in enumerate(names):
        gain = gains[name]
        if gain is None:
            where = axes.get_yaxis_transform()
            axes.text(
                0.02, place, f"no result ({_count(runs[name])})", transform=where, color=pictures.FAILED, fontsize=8
            )
        else:
            width = 0.0 if math.isnan(gain.deviation) else 2 * gain.error
            label = "ours, ± 2 standard errors" if name == next(n for n in names if gains[n]) else None
            axes.errorbar(gain.mean, place, xerr=width, fmt="o", color=pictures.STUDENT, capsize=3, label=label)
    if others and base in others:
        places = [place for place, name in enumerate(names) if name in others]
        told = [others[names[place]] - others[base] for place in places]
        axes.scatter(
            told, places, marker="D", s=26, color=pictures.ALONE, label="published" if told else None, zorder=3
        )
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel=f"gain over {base}, percentage points", ylim=(-0.7, len(names) - 0.3))
    pictures.tidy(axes)
    pictures.legend(axes)
    write_figure(file, figure)


def main(typed: Sequence[str] | None = None) -> None:
    """Print the table and the notes; draw the picture."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.methods", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, help="a sweep's sweep.csv")
    parser.add_argument("--column", default=METHOD, help="the one that names methods (default: %(default)s)")
    parser.add_argument("--base", default=ST, help="what gains are over, beside alone (default: %(default)s)")
    parser.add_argument("--published", metavar="EXPERIMENT", help="whose published.accuracy to set beside")
    parser.add_argument("--times", type=Path, help="a CSV file of benchmarks.zoo")
    parser.add_argument("--picture", type=Path, help="a PNG file to draw")
    given = parser.parse_args(typed)
    runs = read_sweep(given.sweep, given.column)
    others = published(given.published) if given.published else None
    times = {row[METHOD]: row for row in read_rows(given.times, (METHOD, MS))} if given.times else None
    print(table(method_rows(runs, others, times, given.column, given.base)))
    if told := notes(runs, given.base):
        print("\n" + "\n".join(f"- {note}" for note in told))
    if given.picture:
        draw(runs, others, given.picture, given.base)


if __name__ == "__main__":
    main()
