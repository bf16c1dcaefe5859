"""Settings as the command makes them of what is typed."""

from __future__ import annotations

from kd_lightning.cli.configs import compose_config
from kd_lightning.cli.settle import settings_of, settle
from kd_lightning.pipeline.settings import RunSettings, TaskSettings


def run_settings(typed: list[str]) -> RunSettings:
    return settings_of(settle(compose_config(typed)))


def task_settings(typed: list[str]) -> TaskSettings:
    """The settings of a run's one task."""
    (own,) = run_settings(typed).tasks.values()
    return own
