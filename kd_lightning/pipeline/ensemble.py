"""The stage that evaluates several stages' students together: their outputs averaged, as several teachers' are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import seed_everything

from kd_lightning.core.errors import ConfigError, hint
from kd_lightning.pipeline.build import load_setups, quiet_trainer
from kd_lightning.pipeline.evaluate import evaluate_teachers
from kd_lightning.pipeline.places import models_of
from kd_lightning.pipeline.settings import RunSettings
from kd_lightning.pipeline.stage import Made, Stage, stage_folder


class Ensemble(Stage):
    """Evaluates the average of several stages' students, which is not exported.

    Args:
        name: of its folder and of its entry in `metrics.json`.
        enabled: whether this run has it.
        members: the stages whose students count.

    """

    one_process = True

    def __init__(self, name: str, enabled: bool = True, members: Sequence[str] = ()) -> None:
        super().__init__(name, enabled)
        self.inputs = tuple(members)

    def run(self, settings: RunSettings, run_dir: Path) -> dict[str, Any]:
        """Return scores, and size and latency of all members together."""
        seed_everything(settings.seed, verbose=False)
        made = {name: models_of(name, settings, run_dir) for name in self.inputs}
        folders = {task: {name: own[task][name] for name, own in made.items()} for task in settings.tasks}
        setups, make_trainer = load_setups(settings, folders, own_models=True), quiet_trainer(settings.fitting, True)
        return evaluate_teachers(setups, stage_folder(run_dir, self.name), make_trainer, as_teachers=False)

    @property
    def refers(self) -> bool:
        """It names its members."""
        return True

    def check(self, settings: RunSettings, made: Mapping[str, Made]) -> Made:
        """Check that its members are there.

        Raises:
            ConfigError: for one that makes no model, or none at all.

        """
        if not self.inputs:
            raise ConfigError(f"An ensemble has members: type 'plan.{self.name}.members=[NAME,NAME]'.")
        for name in self.inputs:
            if name not in made:
                raise ConfigError(f"The member '{name}' is no stage that makes a model. {hint(name, made)}")
        return {}
