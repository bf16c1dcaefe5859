"""The parts of a run, built from its settings: data, models, teacher sources, modules, Trainers.

Every stage builds its models anew from the settings and from what earlier stages saved: a stage can then be run by
several processes, or again after a kill, and ends the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from hydra.utils import instantiate
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from torch import nn

from kd_lightning.core.errors import ConfigError
from kd_lightning.data import DataModule, MultiTask
from kd_lightning.models import saved, share_body, transfer_vocabulary
from kd_lightning.models.hub import model_folder
from kd_lightning.objective import Objective
from kd_lightning.pipeline.checks import check_labels, check_positions
from kd_lightning.pipeline.settings import Node, RunSettings, TaskSettings, TrainerSettings
from kd_lightning.pipeline.teacher_model import load_teacher
from kd_lightning.tasks import Task
from kd_lightning.teachers import CachedTeacher, EnsembleTeacher, LiveTeacher, TeacherSource, as_teacher
from kd_lightning.training import DistillationModule, MultiTaskModule

TEACHERS = "teachers.json"
"""The file of a run's folder that says where the teachers are: task → name → folder."""

Module: TypeAlias = DistillationModule | MultiTaskModule

FOLDERS = ("dirpath", "save_dir")
"""Arguments of callbacks and loggers that are below the stage's folder where they are relative."""


@dataclass
class TaskSetup:
    """One task of a run with the models that teach it and its data.

    Args:
        settings: the task's settings.
        task: what is to be learnt.
        data: the data module, with its processors.
        models: the teachers by name; none where the student learns from labels alone, or from another source.
        own_source: a teacher source that the settings build themselves.

    """

    settings: TaskSettings
    task: Task
    data: DataModule
    models: dict[str, nn.Module]
    own_source: TeacherSource | None = None

    @property
    def model(self) -> nn.Module | None:
        """The teacher, the first of several; students are built like it."""
        models = self.models.values() if self.own_source is None else self.own_source.models()
        return next(iter(models), None)

    def source(self, compile: bool = False) -> TeacherSource | None:
        """Return the teacher source of this task, in its configured precision: one model, several, or the user's own.

        Args:
            compile: run the models as compiled graphs.

        """
        if self.own_source is not None or not self.models:
            return self.own_source
        teacher = self.settings.teacher
        sources: dict[str, TeacherSource | nn.Module] = {
            name: LiveTeacher(model, precision=teacher.precision, compile=compile)  # type: ignore[arg-type]
            for name, model in self.models.items()
        }
        if len(sources) == 1:
            return as_teacher(next(iter(sources.values())))
        multilabel, temperature = self.task.multilabel, self.settings.temperature
        return EnsembleTeacher(sources, teacher.weights, teacher.combine, temperature, multilabel)  # type: ignore[arg-type]

    def student(self, like: nn.Module | None = None) -> nn.Module:
        """Build the student for the data's vocabulary and labels.

        Args:
            like: of several tasks the first one's teacher: all students are built like it, because they share a body.

        """
        node = {key: value for key, value in self.settings.student.items() if key != "path"}
        if (path := self.settings.student.get("path")) is not None:
            _check_own_processor(self.settings, self.data)
            return saved(path, task=self.task.head or "", **self.task.model_options(self.data))
        builder = instantiate(node)
        if not isinstance(builder, partial):
            return builder
        _check_own_processor(self.settings, self.data)
        student = builder(like=like or self.model or _default_like(), **self.builder_options())
        from_layers, theirs = self.settings.student.get("layers") is not None, self.data.teacher_processor
        if like is None and self.model is not None and theirs is not None and from_layers:
            transfer_vocabulary(self.model, student, theirs, self.data.processor)
        return student

    def builder_options(self) -> dict[str, Any]:
        """Return what a builder of models is told beside its own settings: labels, vocabulary, and the head."""
        options = {key: value for key, value in self.task.model_options(self.data).items() if value is not None}
        # A builder for classification alone need not have an argument `task`.
        head = {} if self.task.head in (None, "sequence-classification") else {"task": self.task.head}
        return head | options | vocabulary(self.data)

    def student_recipe(self, student: nn.Module) -> Node | None:
        """Return the `_target_` and arguments that build a student of this kind again; None for Transformers models."""
        if hasattr(student, "save_pretrained"):
            return None
        node = {key: value for key, value in self.settings.student.items() if key != "path"}
        return {key: value for key, value in node.items() if key != "_partial_"} | (
            self.builder_options() if node.get("_partial_") else {}
        )

    def module(self, student: nn.Module, teacher: TeacherSource | nn.Module | None, objective: Objective) -> Any:
        """Put models, objective, optimizer, scheduler and metrics together."""
        check_positions(student, self.data, "student")
        metrics, own = self.task.metrics_for(self.data), recipe(self.settings.fitting)
        return DistillationModule(student, teacher, objective, **own, metrics=metrics, compile=self.settings.compile)

    def hard_objective(self) -> Objective:
        """Return the objective of labels alone, by the experiment's own hard-label loss."""
        term = (self.settings.objective.get("terms") or {}).get("hard")
        return self.task.hard_objective(instantiate(term["loss"]) if term and term.get("loss") else None)


def vocabulary(data: DataModule) -> dict[str, Any]:
    """Return the vocabulary of a data module's tokenizer as a model's configuration has it; nothing without tokens."""
    if data.max_length is None or data.processor is None:  # rows are no tokens
        return {}
    return {"vocab_size": len(data.processor), "pad_token_id": data.processor.pad_token_id}


def _default_like() -> Any:
    from transformers import BertConfig

    return BertConfig()


# -- data ------------------------------------------------------------------------------------------------------------


def build_data(settings: TaskSettings, teacher_processor: Any = None, processor: Any = None) -> DataModule:
    """Build the data module with the student's processor, and the teacher's where that is another.

    Args:
        settings: the task's settings.
        teacher_processor: the teacher's, which is the student's too where nothing else says so.
        processor: the student's, instead of the configuration's.

    Raises:
        ConfigError: a processor cannot be loaded.

    """
    data = instantiate(settings.data)
    if not isinstance(data, DataModule):
        raise ConfigError(
            f"'data' builds a {type(data).__name__}, which is no kd_lightning.data.DataModule: subclass that, or "
            "kd_lightning.data.RowDataModule."
        )
    wanted = processor or data.processor or _student_processor(settings)
    data.processor = data.load_processor(wanted) if isinstance(wanted, str) else wanted
    if teacher_processor is not None:
        data.set_processors(teacher_processor)
    return data


def _student_processor(settings: TaskSettings) -> str | None:
    """Return where a student's own tokenizer is: that of a saved one, or of a pretrained one."""
    path = settings.student.get("path")
    return str(model_folder(Path(path), "student.path", "saved model")) if path else settings.student.get("name")


def _check_own_processor(settings: TaskSettings, data: DataModule) -> None:
    """Raise an error where a pretrained student is given tokens of another vocabulary."""
    name = _student_processor(settings)
    if name is not None and not data.is_interchangeable(data.load_processor(name)):
        raise ConfigError(
            f"The student '{name}' has a tokenizer of its own, and the data another. Type data.tokenizer={name}, or "
            "choose another student."
        )


# -- all tasks of a run ----------------------------------------------------------------------------------------------


def load_setups(settings: RunSettings, run_dir: Path) -> dict[str, TaskSetup]:
    """Load every task's teachers and build its data; a run of one task has one setup, named ""."""
    file = run_dir / TEACHERS
    folders = json.loads(file.read_text()) if file.is_file() else {}
    setups: dict[str, TaskSetup] = {}
    for name, own in settings.tasks.items():
        first = next(iter(setups.values()), None)
        setups[name] = _load(own, folders.get(name, {}), first.data.processor if first is not None else None)
    return setups


def _load(settings: TaskSettings, folders: Mapping[str, str], processor: Any) -> TaskSetup:
    """Load one task's teachers and data.

    Args:
        settings: the task's settings.
        folders: its teachers.
        processor: the student's, where an earlier task has chosen it.

    """
    task = instantiate(settings.task)
    loaded = {name: load_teacher(Path(folder), task, settings.teacher) for name, folder in folders.items()}
    _check_same_processors({name: own for name, (_, own) in loaded.items()})
    data = build_data(settings, next((own for _, own in loaded.values()), None), processor)
    task.check_data(data)
    if data.processor is None and data.needs_processor:  # no teacher, and none given
        data.processor = data.load_processor("train")
    for name, (model, _) in loaded.items():
        check_labels(model, data, folders[name])
    source = own_source(settings)
    return TaskSetup(settings, task, data, {name: model for name, (model, _) in loaded.items()}, source)


def own_source(settings: TaskSettings) -> TeacherSource | None:
    """Return the teacher source that the settings build themselves, if they do."""
    return as_teacher(instantiate(settings.teacher.source)) if settings.teacher.source is not None else None


def _check_same_processors(processors: Mapping[str, Any]) -> None:
    first, one = next(iter(processors.items()), ("", None))
    for name, other in processors.items():
        if one is not None and one.get_vocab() != other.get_vocab():
            raise ConfigError(
                f"The teachers '{first}' ({len(one)} pieces) and '{name}' ({len(other)} pieces) have different "
                "tokenizers, and all teachers get one batch. Choose teachers with one vocabulary."
            )


def build_module(setups: Mapping[str, TaskSetup], alone: bool, caches: Mapping[str, str] | None = None) -> Module:
    """Build the students, the later ones on the first one's body, and put them together with their teachers.

    Args:
        setups: the tasks by name.
        alone: train on labels alone, without a teacher.
        caches: folders of teacher caches by task; a task without one has its live teacher.

    """
    first = next(iter(setups.values()))
    modules: dict[str, DistillationModule] = {}
    for name, setup in setups.items():
        student = setup.student(first.model if modules and len(setups) > 1 else None)
        if modules:
            student = share_body(next(iter(modules.values())).student, student)
        cache = (caches or {}).get(name)
        teacher = CachedTeacher(cache) if cache else setup.source(compile=setup.settings.teacher.compile)
        if alone or teacher is None:
            modules[name] = setup.module(student, None, setup.hard_objective())
        else:
            modules[name] = setup.module(student, teacher, instantiate(setup.settings.objective))
    return MultiTaskModule(modules, **recipe(first.settings.fitting)) if len(modules) > 1 else modules[name]


def modules_of(module: Module) -> dict[str, DistillationModule]:
    """Return the tasks' modules by name; the one task's own under ""."""
    return module.named_tasks() if isinstance(module, MultiTaskModule) else {"": module}


def run_data(settings: RunSettings, setups: Mapping[str, TaskSetup]) -> DataModule:
    """Return the data of a run: the one task's, or several in turn."""
    if len(setups) == 1:
        return next(iter(setups.values())).data
    data: Any = {name: setup.data for name, setup in setups.items()}
    return MultiTask(data, tau=settings.tau, seed=settings.seed)


# -- trainers --------------------------------------------------------------------------------------------------------


def recipe(fitting: TrainerSettings) -> dict[str, Any]:
    """Return optimizer and scheduler as modules take them."""
    scheduler = instantiate(fitting.scheduler) if fitting.scheduler is not None else None
    return {"optimizer": instantiate(fitting.optimizer), "scheduler": scheduler}


def build_trainer(fitting: TrainerSettings, folder: Path) -> Trainer:
    """Build the Trainer of a stage; relative folders of callbacks and loggers are below `folder`."""
    callbacks, loggers = (_below(nodes, folder) for nodes in (fitting.callbacks, fitting.logger))
    if not loggers:
        callbacks = [c for c in callbacks if not isinstance(c, LearningRateMonitor)]  # it insists on one
    return instantiate(fitting.trainer, callbacks=callbacks, logger=loggers or False, default_root_dir=str(folder))


def quiet_trainer(fitting: TrainerSettings, folder: Path, callbacks: Sequence[Callback], **changes: Any) -> Trainer:
    """Build a Trainer that logs and saves nothing, for passes that only evaluate or predict."""
    return instantiate(fitting.quiet(**changes), callbacks=list(callbacks), default_root_dir=str(folder))


def _below(nodes: Mapping[str, Node | None], folder: Path) -> list[Any]:
    """Build callbacks or loggers; a node that is None is off."""
    built = []
    for node in nodes.values():
        if node is not None:
            places = {key: str(folder / node[key]) for key in FOLDERS if isinstance(node.get(key), str)}
            built.append(instantiate(node, **places))
    return built


def fit(module: Module, data: DataModule, trainer: Trainer, folder: Path) -> None:
    """Train from the last checkpoint in `folder`, or from the start; the module ends with its best weights."""
    last, best = (folder / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
    trainer.fit(module, datamodule=data, ckpt_path=str(last) if last.is_file() else None)
    if best.is_file():
        module.load_state_dict(torch.load(best, map_location="cpu", weights_only=True)["state_dict"])
