"""Reading `metrics.json`: which metric counts, which way is better, and what each model reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ROLES = ("teacher", "alone", "student")
"""The models of a run, in the order they are made: the student alone only where `baseline=true`."""


def roles_of(metrics: Mapping[str, Any]) -> list[str]:
    """Return the models of a run, in the order of its plan where it has further ones.

    Example:
        >>> roles_of({"teacher": {"metrics": {}}, "features": {"metrics": {}}, "student": {"metrics": {}}})
        ['teacher', 'features', 'student']

    """
    named = [name for name, entry in metrics.items() if name in ROLES or "metrics" in (entry or ())]
    return named if {*named} - {*ROLES} else [role for role in ROLES if role in named]


@dataclass(frozen=True)
class Metric:
    """The metric that picks the best checkpoint and the best run.

    Example:
        >>> Metric("accuracy").better(0.9, 0.8), Metric("perplexity", "min").better(9.0, 8.0)
        (True, False)

    """

    name: str
    mode: str = "max"

    def better(self, one: float, other: float) -> bool:
        """Return whether `one` beats `other`; not-a-number beats nothing."""
        return one < other if self.mode == "min" else one > other


def main_metric(metrics: Mapping[str, Any]) -> Metric | None:
    """Return the metric a run's configuration names, or else the first one it reports; None where there is none.

    Example:
        >>> main_metric({"student": {"metrics": {"f1": 0.5}}, "config": {"task": {"metric": "f1", "mode": "max"}}})
        Metric(name='f1', mode='max')

    """
    config = metrics.get("config") or {}
    reported = [name for role in reversed(ROLES) for name in (metrics.get(role) or {}).get("metrics") or {}]
    for node in (config.get("task"), config.get("data"), config):
        if isinstance(node, Mapping) and isinstance(node.get("metric"), str):
            return Metric(node["metric"].removeprefix("val/"), node.get("mode") or "max")
    return Metric(reported[0], "min" if reported[0] == "loss" else "max") if reported else None


def metric_of(metrics: Mapping[str, Any], role: str, metric: Metric | None) -> float | None:
    """Return what the teacher, the student alone or the student reached; None where it did not run."""
    return _score(metrics, role, metric, "metrics")


def selection_of(metrics: Mapping[str, Any], role: str, metric: Metric | None) -> float | None:
    """Return what a model reached on the training rows that are held out to choose on; None where none are.

    Example:
        >>> entry = {"metrics": {"f1": 0.5}, "selection": {"f1": 0.6}}
        >>> selection_of({"student": entry}, "student", Metric("f1"))
        0.6

    """
    return _score(metrics, role, metric, "selection")


def _score(metrics: Mapping[str, Any], role: str, metric: Metric | None, entry: str) -> float | None:
    value = ((metrics.get(role) or {}).get(entry) or {}).get(metric.name) if metric is not None else None
    return float(value) if value is not None else None


def share_kept(metrics: Mapping[str, Any], role: str, metric: Metric | None) -> float | None:
    """Return how much of the teacher's metric a model keeps: 1 is all, more is better than the teacher.

    Example:
        >>> metrics = {"teacher": {"metrics": {"f1": 0.8}}, "student": {"metrics": {"f1": 0.6}}}
        >>> round(share_kept(metrics, "student", Metric("f1")), 4)
        0.75

    """
    value, teacher = metric_of(metrics, role, metric), metric_of(metrics, "teacher", metric)
    if value is None or teacher is None or metric is None:
        return None
    over, under = (teacher, value) if metric.mode == "min" else (value, teacher)
    return over / under if over > 0 and under > 0 else None
