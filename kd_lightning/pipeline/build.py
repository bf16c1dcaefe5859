"""The parts of a run from its settings: setups of all tasks, the module to train, Trainers.

Every stage builds its models anew, from the settings and from what earlier stages saved: a stage can then be run by
several processes, or again after a kill, and ends the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from hydra.utils import instantiate
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import Logger
from omegaconf import ListConfig
from torch import nn

from kd_lightning.core.errors import ConfigError
from kd_lightning.core.unwritable import explained
from kd_lightning.data import Curriculum, DataModule, MultiTask, RowDataModule
from kd_lightning.models import share_body
from kd_lightning.models.export import check_exportable
from kd_lightning.pipeline.checks import check_labels
from kd_lightning.pipeline.difficulty import difficulties
from kd_lightning.pipeline.environment import cluster_plugins
from kd_lightning.pipeline.places import Folders
from kd_lightning.pipeline.settings import ONE_DEVICE, FittingSettings, Node, RunSettings
from kd_lightning.pipeline.setup import TaskSetup, recipe, student_setup, task_without_metrics
from kd_lightning.pipeline.teacher_model import load_teacher
from kd_lightning.teachers import CachedTeacher
from kd_lightning.training import DistillationModule, MultiTaskModule, MutualModule
from kd_lightning.training.checkpoint_io import DurableCheckpointIO, is_whole, resumable

log = logging.getLogger(__name__)

Module: TypeAlias = DistillationModule | MultiTaskModule | MutualModule

Keep: TypeAlias = Literal["best", "last"]
"""Which weights a stage ends with: those of the best checkpoint by the main metric, or the last ones."""

MakeTrainer: TypeAlias = Callable[[Path, Sequence[Callback]], Trainer]
"""Builds a Trainer of a folder and callbacks."""

FOLDERS = ("dirpath", "save_dir")
"""Arguments of callbacks and loggers that are below the stage's folder where they are relative."""


@dataclass
class Fit:
    """Everything that the training of a stage needs.

    Args:
        setups: the tasks by name.
        modules: their modules by name.
        module: what is trained: the one task's module, or all of them.
        data: what it is trained on.
        trainer: trains it.
        make_trainer: builds a Trainer that only evaluates.
        recipes: by task, what builds the student again.

    """

    setups: dict[str, TaskSetup]
    modules: dict[str, DistillationModule]
    module: Module
    data: DataModule
    trainer: Trainer
    make_trainer: MakeTrainer
    recipes: dict[str, Node | None]


def load_setups(
    settings: RunSettings,
    folders: Folders,
    labels_only: bool = False,
    starts: Folders | None = None,
    own_models: bool = False,
) -> dict[str, TaskSetup]:
    """Load every task's teachers and build its data; a run of one task has one setup, named "".

    Args:
        settings: of the run, or of a stage of it.
        folders: where the teachers are.
        labels_only: without text that has no labels.
        starts: where the students are that the new ones start from; None: from what the settings say.
        own_models: whether the teachers are students of this run, whose recipes are trusted.

    """
    setups: dict[str, TaskSetup] = {}
    for name, own in settings.tasks.items():
        trust = own_models or (own.teacher is not None and own.teacher.model is not None)
        if own_models and own.teacher is not None:
            own = replace(own, teacher=replace(own.teacher, source=None, weights=None))
        start = Path(next(iter(starts[name].values()))) if starts is not None else None
        if start is not None and (start / "config.json").is_file():
            own, start = replace(own, student=own.student | {"path": str(start)}), None
        task = task_without_metrics(own.task)
        loaded = {key: load_teacher(Path(path), task, trust) for key, path in folders[name].items()}
        models, processors = ({key: pair[i] for key, pair in loaded.items()} for i in (0, 1))
        first = next(iter(setups.values())).data.processor if setups else None
        teachers = next(iter(processors.values()), None)
        setups[name] = student_setup(own, models, teachers, first, labels_only)
        _check_same_processors(processors, setups[name].data)
        for key, model in models.items():
            check_labels(model, setups[name].data, folders[name][key])
        setups[name].start = start
    return setups


def _check_same_processors(processors: Mapping[str, Any], data: DataModule) -> None:
    """Raise an error where several teachers of a task need different inputs."""
    first, one = next(iter(processors.items()), ("", None))
    for name, other in processors.items():
        if one is not None and not data.interchangeable(one, other):
            raise ConfigError(
                f"The teachers '{first}' ({data.describe_processor(one)}) and '{name}' "
                f"({data.describe_processor(other)}) have different {data.processor_key}s, and all teachers get one "
                "batch. Choose teachers that share theirs."
            )


def build_fit(
    settings: RunSettings,
    setups: dict[str, TaskSetup],
    folder: Path,
    alone: bool,
    caches: Mapping[str, str] | None = None,
) -> Fit:
    """Build what a stage that trains students needs.

    Args:
        settings: of the stage.
        setups: its tasks by name.
        folder: the stage's folder.
        alone: train on labels alone, without a teacher.
        caches: folders of teacher caches by task; a task without one has its live teacher.

    """
    trainer, make_trainer = build_trainer(settings.fitting, folder), quiet_trainer(settings.fitting)
    modules = build_modules(setups, alone, caches)
    several: Any = {name: setup.data for name, setup in setups.items()}
    module: Module = next(iter(modules.values()))
    data: DataModule = next(iter(setups.values())).data
    if len(setups) > 1:
        module, data = (
            MultiTaskModule(modules, **recipe(settings.fitting)),
            MultiTask(several, settings.tau, settings.seed),
        )
    recipes = {name: setup.student_recipe(modules[name].student) for name, setup in setups.items()}
    return Fit(setups, modules, module, data, trainer, make_trainer, recipes)


def build_modules(
    setups: Mapping[str, TaskSetup], alone: bool = False, caches: Mapping[str, str] | None = None
) -> dict[str, DistillationModule]:
    """Build the students, the later ones on the first one's body, and put each together with its teacher."""
    modules: dict[str, DistillationModule] = {}
    like = next(iter(setups.values())).model if len(setups) > 1 else None
    for name, setup in setups.items():
        student = setup.student(like if modules else None)
        check_exportable(student, setup.student_recipe(student), required=True)
        if modules:
            student = share_body(next(iter(modules.values())).student, student)
        cache = (caches or {}).get(name)
        teacher = None if alone else CachedTeacher(cache) if cache else setup.source(compile=True)
        modules[name] = setup.module(student, teacher, compile=True)
        if cache and setup.settings.curriculum is not None:
            _order(setup, CachedTeacher(cache, verify=False))
    return modules


def _order(setup: TaskSetup, teacher: CachedTeacher) -> None:
    """Let training begin with the rows that the teacher finds easy."""
    curriculum, data = instantiate(setup.settings.curriculum), setup.data
    if not isinstance(curriculum, Curriculum) or not isinstance(data, RowDataModule):
        raise ConfigError(
            f"A curriculum is a kd_lightning.data.Curriculum over the rows of a RowDataModule, got {curriculum!r}."
        )
    data.order_by(curriculum, difficulties(data, teacher, curriculum.by))


# -- trainers --------------------------------------------------------------------------------------------------------


def build_trainer(fitting: FittingSettings, folder: Path) -> Trainer:
    """Build the Trainer of a stage; relative folders of callbacks and loggers are below `folder`."""
    callbacks = _below("callbacks", fitting.callbacks, folder, Callback)
    loggers = _below("logger", fitting.logger, folder, Logger)
    if not loggers:
        callbacks = [c for c in callbacks if not isinstance(c, LearningRateMonitor)]  # it insists on one
    given = {"callbacks": callbacks, "logger": loggers or False, "default_root_dir": str(folder)}
    plugins = _own_plugins(fitting.trainer)
    plugins += cluster_plugins(fitting.trainer.get("strategy", "auto"), plugins)
    return _as_trainer(instantiate(fitting.trainer, **given, plugins=[*plugins, DurableCheckpointIO()]))


def quiet_trainer(fitting: FittingSettings, one_device: bool = False, **changes: Any) -> MakeTrainer:
    """Return what builds a Trainer that logs and saves nothing, of a folder and callbacks: to evaluate or predict."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, **changes}
    node: Node = {**fitting.trainer, **(ONE_DEVICE if one_device else {}), **quiet}
    return partial(_trainer, node)


def _trainer(node: Node, folder: Path, callbacks: Sequence[Callback] = ()) -> Trainer:
    plugins = _own_plugins(node)
    plugins += cluster_plugins(node.get("strategy", "auto"), plugins)
    return _as_trainer(instantiate(node, callbacks=list(callbacks), default_root_dir=str(folder), plugins=plugins))


def _as_trainer(made: Any) -> Trainer:
    if not isinstance(made, Trainer):
        raise ConfigError(f"'trainer' builds a {type(made).__name__}, and must build a lightning.pytorch.Trainer.")
    return made


def _own_plugins(node: Node) -> list[Any]:
    """Build the user's own plugins of a Trainer."""
    plugins = instantiate(node.get("plugins")) or []
    return list(plugins) if isinstance(plugins, list | ListConfig) else [plugins]


def _below(group: str, nodes: Mapping[str, Node | None], folder: Path, kind: type) -> list[Any]:
    """Build callbacks or loggers; a node that is None is off."""
    built = []
    for name, node in nodes.items():
        if node is not None:
            places = {key: folder / node[key] for key in FOLDERS if isinstance(node.get(key), str)}
            for place in places.values():
                with explained(place, every_cause=True):
                    place.mkdir(parents=True, exist_ok=True)
            made = instantiate(node, **{key: str(place) for key, place in places.items()})
            if not isinstance(made, kind):
                raise ConfigError(
                    f"'{group}.{name}' builds a {type(made).__name__}, and must build a {kind.__name__} of Lightning's."
                )
            built.append(made)
    return built


def fit(module: Module, data: DataModule, trainer: Trainer, folder: Path, keep: Keep = "best") -> None:
    """Train from the last checkpoint in `folder`, or from the start; the module ends with its best or last weights."""
    last, best = (folder / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
    begin = resumable(last)
    if begin is not None:
        _check_begin(module, begin, best)
    # only tensors and plain values are read, whoever wrote them
    trainer.fit(module, datamodule=data, ckpt_path=begin, weights_only=True)
    if keep == "best" and best.is_file():
        _check_fits(module, best)
        module.load_state_dict(torch.load(best, map_location="cpu", weights_only=True)["state_dict"])


def _check_begin(module: Module, begin: Path, best: Path) -> None:
    """Check, before hours of training, what a stage goes on from and what it would end with; say where it goes on."""
    there = _check_fits(module, begin)
    if not {"optimizer_states", "loops", "callbacks"} <= there.keys():
        raise ConfigError(f"The checkpoint {begin} holds weights alone, and no training to go on with. {_anew(begin)}")
    if best.is_file():
        _check_fits(module, best)
    elif any(best.name == Path(_best_of(state)).name for state in there["callbacks"].values()):
        raise ConfigError(f"The checkpoint {best} is gone, which training had saved. {_anew(best)}")
    log.info("Goes on from epoch %d, step %d (%s).", there["epoch"], there["global_step"], begin)


def _best_of(state: Any) -> str:
    """Return where a callback had saved the best checkpoint, by its state; empty: nowhere."""
    return str(state.get("best_model_path") or "") if isinstance(state, dict) else ""


def _check_fits(module: Module, path: Path) -> dict[str, Any]:
    """Return a checkpoint, its tensors not yet read.

    Raises:
        ConfigError: it is damaged, or of another model.

    """
    if not is_whole(path):
        raise ConfigError(f"The checkpoint {path} is damaged. {_anew(path)}")
    there: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    shapes, own = ({k: tuple(v.shape) for k, v in s.items()} for s in (there["state_dict"], module.state_dict()))
    if different := sorted(key for key in shapes.keys() | own.keys() if shapes.get(key) != own.get(key)):
        raise ConfigError(f"The checkpoint {path} is of another model: '{different[0]}' differs. {_anew(path)}")
    return there


def _anew(path: Path) -> str:
    return f"Delete {path.parent}, and this stage is trained anew."


def parameters(model: nn.Module) -> int:
    """Return the number of a model's parameters."""
    return sum(p.numel() for p in model.parameters())
