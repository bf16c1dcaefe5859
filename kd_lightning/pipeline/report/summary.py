"""What the command says before a run and after it: a start-up summary and the final comparison."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from torch import nn

from kd_lightning.objective import Objective, Term
from kd_lightning.pipeline.report.results import Metric, main_metric, metric_of, roles_of, selection_of, share_kept

TITLES = {"teacher": "teacher", "alone": "student alone", "student": "student distilled"}
"""How each entry of `metrics.json` is called on the terminal."""

SOMETIMES = ("selection", "of teacher")
"""Columns that only some runs have: the main metric on held-out training rows, and the share of the teacher's."""


def human(count: float) -> str:
    """Return a number of parameters in three digits.

    Example:
        >>> human(109_483_778), human(14_350_874), human(35_200), human(12)
        ('109 M', '14.4 M', '35.2 k', '12')

    """
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= limit * 0.9995:
            scaled = count / limit
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f}{unit}"
    return f"{count:g}"


def startup(
    console: Console,
    *,
    teacher_name: str | None,
    teacher_size: int | None,
    student_name: str,
    student_size: int,
    objective: Objective,
    data: Mapping[str, object],
    trainer: Mapping[str, object],
) -> None:
    """Print what is about to happen.

    Args:
        console: where to print.
        teacher_name: what to call the teacher; None where no term asks one.
        teacher_size: its number of parameters; None where it is not known, as with a cache.
        student_name: what to call the student.
        student_size: its number of parameters.
        objective: bound to the two models, so that projections are there.
        data: what is read, such as `{"name": "sst2", "train": 67349, "validation": 872}`.
        trainer: how, such as `{"epochs": 3, "steps": 6315, "precision": "32-true", "devices": "1 x cpu"}`.

    """
    lines = Table.grid(padding=(0, 2))
    if teacher_name is not None:
        lines.add_row("teacher", _model(teacher_name, teacher_size, "frozen"))
    lines.add_row("student", _model(student_name, student_size, "trainable"))
    if projections := objective.projections():
        total = sum(_size(module) for module in projections.values())
        lines.add_row("projections", f"{len(projections)}, {human(total)} parameters, trainable, dropped on export")
    lines.add_row("data", _facts(data))
    lines.add_row("trainer", _facts(trainer))
    lines.columns[0].style = "bold"
    console.print(lines)
    console.print(terms_table(objective))


def terms_table(objective: Objective) -> Table:
    """Return one row per term: what learns from what, by which loss, how much it counts, and its options."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("term", overflow="fold", min_width=16)
    table.add_column("match", overflow="fold")
    table.add_column("loss", overflow="fold", min_width=10)
    table.add_column("weight", justify="right", no_wrap=True)
    table.add_column("with", overflow="fold", min_width=17)
    for name, term in objective.named_terms().items():
        sides = (term.match.student_addresses, term.match.teacher_addresses)
        match = " ← ".join(_side(addresses) for addresses in sides if addresses)
        details = escape("\n".join(_details(term)))
        table.add_row(name, match, _name(term.loss), f"{term.weight:g}", details)
    return table


def _details(term: Term) -> Iterator[str]:
    """Yield what a term has besides its loss and weight: the loss's options, a schedule, a projection."""
    yield from _options(term.loss)
    if term.schedule is not None:
        yield f"× {term.schedule!r}" if is_dataclass(term.schedule) else f"× {_name(term.schedule)}"
    if term.projection is not None:
        yield _projection(term.projection)


def _side(addresses: tuple[str, ...]) -> str:
    """Return one side of a match, an address that is given several times only once: `hidden.1 ×2`."""
    times = Counter(addresses)
    return "+".join(address if n == 1 else f"{address} ×{n}" for address, n in times.items())


def _name(thing: object) -> str:
    return str(thing.__name__) if hasattr(thing, "__name__") else type(thing).__name__


def _options(thing: object) -> list[str]:
    """Return the plain options of a loss that differ from its defaults: `["temperature=8.0"]`."""
    if hasattr(thing, "__name__"):
        return []
    declared = inspect.signature(type(thing)).parameters
    own = {key: value for key, value in vars(thing).items() if key in declared and value != declared[key].default}
    return [f"{key}={value}" for key, value in own.items() if isinstance(value, str | int | float)]


def _projection(module: nn.Module) -> str:
    """Return `312→768, tanh` for a linear map, with the modules that follow it, else the module's class."""
    layers = list(module) if isinstance(module, nn.Sequential) else [module]
    linear = layers[0] if layers else module
    if not isinstance(linear, nn.Linear):
        return f"{type(module).__name__}, {human(_size(module))}"
    after = "".join(f", {type(layer).__name__.lower()}" for layer in layers[1:])
    return f"{linear.in_features}→{linear.out_features}{after}"


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _model(name: str, size: int | None, state: str) -> str:
    return escape(name) + (f", {state}" if size is None else f", {human(size)} parameters, {state}")


def _facts(facts: Mapping[str, object]) -> str:
    given = {key: value for key, value in facts.items() if value is not None}
    shown = {key: f"{value:,}" if isinstance(value, int) else str(value) for key, value in given.items()}
    return escape(" · ".join(value if key == "name" else f"{key} {value}" for key, value in shown.items()))


def final_table(console: Console, metrics: Mapping[str, Any]) -> None:
    """Print teacher, student alone and distilled student side by side, and what distillation brought.

    Args:
        console: where to print.
        metrics: the object of `metrics.json`; roles that did not run are absent and have no row.

    """
    main, roles = main_metric(metrics), roles_of(metrics)
    names = list(dict.fromkeys(name for role in roles for name in metrics[role].get("metrics", {})))
    rows = [["", *names, *SOMETIMES, "parameters", "latency", "time"]]
    rows += [_final_row(metrics, role, names, main) for role in roles]
    rows = [list(row) for row in zip(*_told(list(zip(*rows, strict=True))), strict=True)]
    upright = _upright(rows, roles)
    wanted = Measurement.get(console, console.options.update(max_width=10_000), upright).maximum
    console.print(upright if wanted <= console.width else _turned(rows))
    for sentence in _remarks(metrics, main):
        console.print(sentence)


def _told(columns: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the columns without those of `SOMETIMES` that are empty."""
    return [column for column in columns if column[0] not in SOMETIMES or any(column[1:])]


def _upright(rows: list[list[str]], roles: list[str]) -> Table:
    """Return one row per model."""
    table = _columns(rows[0])
    for role, row in zip(roles, rows[1:], strict=True):
        table.add_row(*row, style="bold" if role == "student" else None)
    return table


def _turned(rows: list[list[str]]) -> Table:
    """Return one column per model, for more metrics than lie side by side; what is still too wide is folded."""
    table = _columns([row[0] for row in rows])
    for column in table.columns:
        column.no_wrap, column.overflow = False, "fold"
    for line in zip(*rows, strict=True):
        if line[0]:
            table.add_row(*line)
    return table


def _columns(titles: list[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for i, title in enumerate(titles):
        table.add_column(title, justify="right" if i else "left", no_wrap=True)
    return table


def _final_row(metrics: Mapping[str, Any], role: str, names: list[str], main: Metric | None) -> list[str]:
    entry = metrics[role]
    kept = share_kept(metrics, role, main) if main is None or main.mode == "max" else None  # 90 % of a loss is better
    latency = entry.get("latency_ms")
    return [
        "student" if role == "student" and "teacher" not in metrics else TITLES.get(role, role.replace("_", " ")),
        *(_number(entry.get("metrics", {}).get(name)) for name in names),
        _number(selection_of(metrics, role, main)),
        "" if kept is None or role == "teacher" else f"{100 * kept:.1f} %",
        human(entry["parameters"]) if "parameters" in entry else "",
        "" if latency is None else f"{latency:.1f} ms",
        _duration(metrics.get("seconds", {}).get(role)),
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _duration(seconds: float | None) -> str:
    """Return wall time as a person reads it; a stage of no time was found ready."""
    if seconds is None:
        return ""
    if seconds == 0:
        return "reused"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} m {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} m"


def _remarks(metrics: Mapping[str, Any], main: Metric | None) -> Iterator[str]:
    student, alone = metric_of(metrics, "student", main), metric_of(metrics, "alone", main)
    if main is not None and student is not None and alone is not None:
        gain = abs(student - alone)
        if main.better(student, alone):
            yield f"Distilled beats alone by {gain:.4f} {main.name} ({student:.4f} against {alone:.4f})."
        else:
            yield f"Distilled does not beat alone: {student:.4f} {main.name} against {alone:.4f}."
    if cache := metrics.get("seconds", {}).get("cache"):
        yield f"The teacher's cache took {_duration(cache)} to build."
