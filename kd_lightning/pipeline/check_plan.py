"""Checks of all stages of a plan before the first one begins, with untrained models where trained ones will be."""

from __future__ import annotations

from collections.abc import Sequence

from kd_lightning.core.errors import KDError
from kd_lightning.pipeline.checks import check_settings
from kd_lightning.pipeline.settings import RunSettings
from kd_lightning.pipeline.stage import Made, Stage


def check_plan(stages: Sequence[Stage], settings: RunSettings) -> None:
    """Raise an error where a stage's settings, student and teacher do not go together.

    A run whose stages change nothing and name no other is checked by its first stages.

    Args:
        stages: in their order.
        settings: of the run.

    Raises:
        KDError: of the first stage that cannot be, naming it.

    """
    if not any(stage.refers or stage.name in settings.stages for stage in stages):
        return
    made: dict[str, Made] = {}
    for stage in stages:
        own = settings.of(stage.name)
        try:
            if stage.name in settings.stages:  # those of the run are checked
                check_settings(own)
            if found := stage.check(own, made):
                made[stage.name] = found
        except KDError as error:
            raise type(error)(f"In stage '{stage.name}': {error}") from error
