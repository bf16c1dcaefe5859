"""The stage in which several students teach each other: mutual learning and codistillation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning.pytorch import seed_everything
from lightning.pytorch.utilities import CombinedLoader
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from kd_lightning.core.errors import ConfigError
from kd_lightning.models.export import check_exportable, export
from kd_lightning.models.inspection import latency_ms
from kd_lightning.pipeline.build import build_trainer, fit, load_setups, parameters, quiet_trainer
from kd_lightning.pipeline.evaluate import evaluate
from kd_lightning.pipeline.places import TEACHER, home_of, read_teachers, teachers_file
from kd_lightning.pipeline.settings import Node, RunSettings, merged
from kd_lightning.pipeline.setup import TaskSetup, recipe, student_setup
from kd_lightning.pipeline.stage import Made, Stage, stage_folder
from kd_lightning.training import MutualModule

SEEDS = 1000
"""Between the seeds of two peers' weights."""


class Mutual(Stage):
    """Trains several students that teach each other, and exports each; the best by the main metric is the stage's.

    Each is exported into `stages/NAME/peers/PEER/student`. The best, on held-out rows where there are some, is exported
    as the stage's student too, and is named as `best` in the result.

    Args:
        name: of its folder and of its entry in `metrics.json`.
        enabled: whether this run has it.
        peers: how many students, alike but for their seeds; or by name, what each changes of the run's student.
        every: optimizer steps between two copies of a peer, by which it teaches; null: peers teach as they are.

    """

    inputs = (TEACHER,)

    def __init__(
        self,
        name: str,
        enabled: bool = True,
        peers: int | Mapping[str, Node | None] = 2,
        every: int | None = None,
    ) -> None:
        super().__init__(name, enabled)
        self.peers = {f"peer_{i + 1}": None for i in range(peers)} if isinstance(peers, int) else dict(peers)
        self.every = every

    def run(self, settings: RunSettings, run_dir: Path) -> dict[str, Any]:
        """Train, evaluate and export all; return the best one's scores, size and latency, and the scores of each."""
        folder = stage_folder(run_dir, self.name)
        (setup,) = load_setups(settings, read_teachers(teachers_file(run_dir), settings), labels_only=True).values()
        module, setups = self.module(settings, setup)
        trainer, make_trainer = build_trainer(settings.fitting, folder), quiet_trainer(settings.fitting)
        fit(module, setup.data, trainer, folder)
        found: dict[str, dict[str, Any]] = {}
        for name, own in setups.items():
            recorders = {"": own.task.recorder(own.data)}
            found[name] = evaluate(make_trainer, module.peer(name), setup.data, folder / "peers" / name, recorders)
        best, home = self.best(settings, found), home_of(self.name, run_dir)
        if trainer.is_global_zero:
            for name, own in setups.items():
                peer, places = module.peer(name), [folder / "peers" / name / "student"]
                saved: dict[str, Any] = {"processor": own.data.saved_processor}
                for place in [*places, home / "student"] if name == best else places:
                    export(peer, place, **saved, recipe=own.student_recipe(peer.student))
        chosen, own = module.peer(best).student, setups[best]
        return {
            **found[best],
            "parameters": parameters(chosen),
            "latency_ms": latency_ms(chosen, own.task.example_input(chosen, own.data)),
            "best": best,
            "peers": {name: scores["metrics"] for name, scores in found.items()},
        }

    @property
    def refers(self) -> bool:
        """Its students are of its own making, which nothing else checks."""
        return True

    def check(self, settings: RunSettings, made: Mapping[str, Made]) -> Made:
        """Compare untrained students with each other on two rows, and return the first of them."""
        (own,) = settings.tasks.values()
        models, processor = made.get(TEACHER, {}).get("", ({}, None))
        setup = student_setup(own, models, processor, labels_only=True)
        module, _ = self.module(settings, setup)
        setup.data.setup("fit")
        for batch, _, _ in CombinedLoader(setup.data.val_dataloader(), "sequential"):
            with torch.no_grad():
                module.compare(apply_to_collection(batch, Tensor, lambda x: x[:2]))
            break
        return {"": ({self.name: next(iter(module.students.values()))}, setup.data.saved_processor)}

    def module(self, settings: RunSettings, setup: TaskSetup) -> tuple[MutualModule, dict[str, TaskSetup]]:
        """Build the students, each from its own seed, and put them together.

        Raises:
            ConfigError: for several tasks, or students that do not fit.

        """
        if len(settings.tasks) > 1:
            raise ConfigError("Students that teach each other learn one task: leave tasks out.")
        for key in ("strategy", "curriculum"):
            if getattr(setup.settings, key) is not None:
                raise ConfigError(f"Students that teach each other have no {key}: leave {key} out.")
        setups, students = {}, dict[str, nn.Module]()
        for number, (name, changes) in enumerate(self.peers.items()):
            own = replace(setup.settings, student=merged(setup.settings.student, changes))
            setups[name] = replace(setup, settings=own)
            seed_everything((settings.seed + number * SEEDS) % 2**32, verbose=False)
            students[name] = setups[name].student()
            check_exportable(students[name], setups[name].student_recipe(students[name]), required=True)
        seed_everything(settings.seed, verbose=False)
        objective = instantiate(setup.settings.objective, _convert_="all")
        options: dict[str, Any] = {"metrics": setup.task.metrics_for(setup.data), "rows": setup.training_rows}
        return MutualModule(students, objective, **recipe(settings.fitting), **options, every=self.every), setups

    def best(self, settings: RunSettings, found: Mapping[str, Mapping[str, Any]]) -> str:
        """Return the name of the best student, the first of equals."""
        metric, mode = settings.metric, (settings.config.get("task") or {}).get("mode")
        scores = {name: (own.get("selection") or own["metrics"]).get(metric) for name, own in found.items()}
        known = {name: float(score) for name, score in scores.items() if score is not None and score == score}
        pick = min if mode == "min" else max
        return pick(known, key=lambda name: known[name]) if known else next(iter(found))
