"""One task of a run, built from its settings: what is to be learnt, the data, the teachers, new models and modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object, instantiate
from lightning.pytorch import seed_everything
from lightning.pytorch.utilities import CombinedLoader
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from kd_lightning.core.errors import ConfigError
from kd_lightning.core.types import RowInfo
from kd_lightning.data import DataModule
from kd_lightning.models import saved, transfer_vocabulary
from kd_lightning.models.export import check_exportable
from kd_lightning.models.hub import model_folder
from kd_lightning.models.load import load
from kd_lightning.objective import Objective
from kd_lightning.pipeline.checks import build_for_data, check_inputs, check_views
from kd_lightning.pipeline.settings import FittingSettings, Node, TaskSettings, without_module_paths
from kd_lightning.pipeline.teacher_model import origin_of, pretrained_teacher, random_teacher
from kd_lightning.tasks import Task
from kd_lightning.teachers import EnsembleTeacher, LiveTeacher, TeacherSource, as_teacher
from kd_lightning.teachers.identity import weights_hash
from kd_lightning.training import DistillationModule
from kd_lightning.training.optim import build_optimizer, parameter_groups
from kd_lightning.training.strategies import Strategy

TRAINER_SHAPES = (
    "max_epochs", "max_steps", "precision", "accumulate_grad_batches", "gradient_clip_val", "limit_train_batches",
    "limit_val_batches", "val_check_interval", "check_val_every_n_epoch",
)  # fmt: skip
"""Trainer arguments that change what comes out of training, and so belong to a teacher's fingerprint."""


@dataclass
class TaskSetup:
    """One task of a run with its data and the models that teach it.

    Args:
        settings: the task's settings.
        task: what is to be learnt.
        data: the data module, with its processors.
        models: the teachers by name; none where the student learns from labels alone, or from another source.
        own_source: a teacher source that the settings build themselves.
        start: the folder of a model of an earlier stage, no Transformers model, that the student starts from.

    """

    settings: TaskSettings
    task: Task
    data: DataModule
    models: dict[str, nn.Module] = field(default_factory=dict)
    own_source: TeacherSource | None = None
    start: Path | None = None

    @property
    def model(self) -> nn.Module | None:
        """The teacher, the first of several; students are built like it."""
        models = self.models.values() if self.own_source is None else self.own_source.models()
        return next(iter(models), None)

    # -- the teacher -------------------------------------------------------------------------------------------

    def fresh_teacher(self) -> nn.Module:
        """Return the teacher before fine-tuning: what its `_target_` builds, pretrained weights, or random ones.

        Raises:
            ConfigError: for a model that cannot be found, or one with a new head that is never to be trained.

        """
        teacher = self.settings.teacher
        assert teacher is not None, "a task without a teacher has nothing to fine-tune"
        if teacher.model is not None:
            model = instantiate(self.teacher_recipe())
            if not isinstance(model, nn.Module):
                raise ConfigError(f"'teacher' builds a {type(model).__name__}, and a teacher is an nn.Module.")
            return model
        if teacher.pretrained is not None:
            epochs = teacher.fitting.trainer.get("max_epochs")
            return pretrained_teacher(teacher.pretrained, self.task, self.data, trained=epochs != 0)
        return random_teacher(teacher.architecture or {}, self.task, self.data)

    def teacher_recipe(self) -> Node | None:
        """Return the `_target_` and all arguments that build the teacher; None for Transformers models.

        A `_partial_` builder is also told the labels, and the vocabulary or the size of images.
        """
        node = self.settings.teacher.model if self.settings.teacher is not None else None
        return None if node is None else self._recipe(node, teacher=True)

    def teacher_shape(self) -> Any:
        """Return everything that shapes the fine-tuned weights: what the teacher's fingerprint is made of.

        Targets count by the bare names of their classes, so that a class may move to another module; a builder of the
        user's own counts by the weights it makes, too.
        """
        settings, teacher = self.settings, self.settings.teacher
        assert teacher is not None, "a task without a teacher has nothing to fine-tune"
        origin: Any = teacher.architecture if teacher.pretrained is None else origin_of(teacher.pretrained)
        if teacher.model is not None:
            seed_everything(settings.seed, verbose=False)
            origin = [without_module_paths(self.teacher_recipe()), weights_hash(self.fresh_teacher())]
        fitting, hard = teacher.fitting, (settings.objective.get("terms") or {}).get("hard") or {}
        trainer = {name: fitting.trainer.get(name) for name in TRAINER_SHAPES}
        nodes = without_module_paths([fitting.optimizer, fitting.scheduler, settings.task, hard.get("loss")])
        return [origin, self.data.fingerprint, self.data.training_settings, trainer, nodes, settings.seed]

    def source(self, compile: bool = False) -> TeacherSource | None:
        """Return the teacher source of this task, in its configured precision: one model, several, or the user's own.

        Args:
            compile: run the models as the settings say, compiled or not; without it they never are.

        """
        teacher = self.settings.teacher
        if self.own_source is not None or teacher is None or not self.models:
            return self.own_source
        options: dict[str, Any] = {"precision": teacher.precision, "compile": compile and teacher.compile}
        sources: dict[str, Any] = {name: LiveTeacher(model, **options) for name, model in self.models.items()}
        if len(sources) == 1:
            return as_teacher(next(iter(sources.values())))
        combine: Any = teacher.combine
        weights: Any = teacher.weights
        return EnsembleTeacher(sources, weights, combine, self.settings.temperature, self.task.multilabel)

    # -- the student -------------------------------------------------------------------------------------------

    def student(self, like: nn.Module | None = None) -> nn.Module:
        """Build the student for the data's vocabulary and labels.

        Args:
            like: of several tasks the first one's teacher: all students are built like it, because they share a body.

        """
        node = {key: value for key, value in self.settings.student.items() if key != "path"}
        if self.start is not None:
            return load(self.start, trust=True)  # this run has built it
        if (path := self.settings.student.get("path")) is not None:
            self._check_own_processor()
            return saved(path, task=self.task.head or "", **self.task.model_options(self.data))
        builder = instantiate(node)
        if not isinstance(builder, partial):
            return builder
        self._check_own_processor()
        student = build_for_data(builder, like=like or self.model or _bert(), **self._builder_options())
        from_layers, theirs = self.settings.student.get("layers") is not None, self.data.teacher_processor
        are_tokens = self.data.max_length is not None
        if like is None and self.model is not None and theirs is not None and from_layers and are_tokens:
            transfer_vocabulary(self.model, student, theirs, self.data.processor)
        return student

    def student_recipe(self, student: nn.Module) -> Node | None:
        """Return the `_target_` and all arguments that build such a student again; None where it can save itself."""
        if hasattr(student, "save_pretrained"):
            return None
        return self._recipe({key: value for key, value in self.settings.student.items() if key != "path"})

    def _recipe(self, node: Node, teacher: bool = False) -> Node:
        plain = {key: value for key, value in node.items() if key != "_partial_"}
        return plain | (self._builder_options(teacher) if node.get("_partial_") else {})

    def _builder_options(self, teacher: bool = False) -> dict[str, Any]:
        """Return the arguments that a builder of models gets beside its own settings: head, labels, and inputs."""
        options = {key: value for key, value in self.task.model_options(self.data).items() if value is not None}
        # A builder for classification alone need not have an argument `task`.
        head = {} if self.task.head in (None, "sequence-classification") else {"task": self.task.head}
        return head | options | self.data.input_options(teacher)

    def _check_own_processor(self) -> None:
        """Raise an error where a pretrained student is given tokens of another vocabulary."""
        name = _students_processor(self.settings.student)
        if name is not None and not self.data.interchangeable(self.data.load_processor(name), self.data.processor):
            raise ConfigError(
                f"The student '{name}' has a {self.data.processor_key} of its own, and the data another. Type "
                f"data.{self.data.processor_key}={name}, or choose another student."
            )

    # -- training ----------------------------------------------------------------------------------------------

    def module(
        self,
        student: nn.Module,
        teacher: TeacherSource | nn.Module | None,
        fitting: FittingSettings | None = None,
        compile: bool = False,
    ) -> DistillationModule:
        """Put models, objective, optimizer, scheduler and metrics together.

        Args:
            student: the model to train.
            teacher: its teacher; None: it learns from labels alone, by the experiment's own hard-label loss.
            fitting: of the teacher; None: of the student.
            compile: run the student as the settings say, compiled or not; without it it never is.

        """
        check_inputs(student, self.data, "student")
        objective = self.hard_objective() if teacher is None else instantiate(self.settings.objective, _convert_="all")
        own, metrics = recipe(fitting or self.settings.fitting), self.task.metrics_for(self.data)
        compile = compile and self.settings.compile
        return DistillationModule(
            student,
            teacher,
            objective,
            **own,
            metrics=metrics,
            compile=compile,
            rows=self.training_rows,
            strategy=self._strategy(teacher) if fitting is None else None,
        )

    def _strategy(self, teacher: object) -> Strategy | None:
        """Return what changes the student's forward pass; one that needs a teacher is not for a student alone."""
        made = instantiate(self.settings.strategy)
        if made is not None and not isinstance(made, Strategy):
            raise ConfigError(f"'strategy' builds a {type(made).__name__} and no kd_lightning.strategies.Strategy.")
        return made if made is None or teacher is not None or not made.needs_teacher else None

    def training_rows(self) -> RowInfo:
        """Return the rows that are trained on."""
        self.data.setup("fit")
        return self.data.row_info()

    def hard_objective(self) -> Objective:
        """Return the objective of labels alone, by the experiment's own hard-label loss."""
        term = (self.settings.objective.get("terms") or {}).get("hard")
        return self.task.hard_objective(instantiate(term["loss"]) if term and term.get("loss") else None)

    def check(
        self, teacher: nn.Module | TeacherSource, like: nn.Module | None = None, student: nn.Module | None = None
    ) -> nn.Module:
        """Compare a student with its teacher on two rows: what does not fit raises its error before any training.

        Args:
            teacher: a model or a source.
            like: of several tasks the first one's teacher, like which all students are built.
            student: the student; None: a new one.

        Returns:
            The student.

        """
        for model in [teacher] if isinstance(teacher, nn.Module) else teacher.models():
            check_inputs(model, self.data, "teacher")
        if self.settings.cache:
            check_views(self.data)
        student = self.student(like) if student is None else student
        check_exportable(student, self.student_recipe(student), required=True)
        module = self.module(student, teacher)
        terms = module.objective.named_terms()
        if not any(term.weight for term in terms.values()):
            advice = f"type objective.terms.{next(iter(terms), 'NAME')}.weight=1"
            raise ConfigError(
                f"Every term of the objective has weight 0, so the student would learn nothing: {advice}."
            )
        needing = next((name for name, term in terms.items() if term.needs_classes and term.weight), None)
        if self.data.mixes_labels and needing is not None:
            raise ConfigError(
                f"The term '{needing}' needs one class for each row, and data.mix gives rows shares of two: leave mix "
                "out."
            )
        build_optimizer(instantiate(self.settings.fitting.optimizer), parameter_groups(student, module.objective))
        self.data.setup("fit")
        for batch, _, _ in CombinedLoader(self.data.val_dataloader(), "sequential"):
            with torch.no_grad():
                two = apply_to_collection(batch, Tensor, lambda x: x[:2])
                module.compare(two)
                module.validation_step(two, 0)  # metrics that do not fit
            break
        return student


def recipe(fitting: FittingSettings) -> dict[str, Any]:
    """Return optimizer and scheduler as modules take them."""
    scheduler = instantiate(fitting.scheduler) if fitting.scheduler is not None else None
    return {"optimizer": instantiate(fitting.optimizer), "scheduler": scheduler}


def _bert() -> Any:
    from transformers import BertConfig

    return BertConfig()


# -- data ------------------------------------------------------------------------------------------------------------


def student_setup(
    settings: TaskSettings,
    models: Mapping[str, nn.Module],
    teacher_processor: Any = None,
    processor: Any = None,
    labels_only: bool = False,
) -> TaskSetup:
    """Build task and data for the student.

    Args:
        settings: the task's settings.
        models: its teachers by name.
        teacher_processor: the teacher's, which is the student's too where nothing else says so.
        processor: the student's, where an earlier task has chosen it.
        labels_only: without text that has no labels.

    Raises:
        ConfigError: a processor cannot be loaded, or the data is made for another task.

    """
    changes = {"unlabelled": None} if labels_only and "unlabelled" in settings.data else {}
    task, data = _task_and_data(settings, changes)
    wanted = processor or data.processor or _students_processor(settings.student)
    data.processor = data.load_processor(wanted) if isinstance(wanted, str) else wanted
    if teacher_processor is not None:
        data.set_processors(teacher_processor)
    if data.processor is None and data.needs_processor:  # no teacher, and none given
        data.processor = data.load_processor("train")
    if settings.cache and settings.teacher is not None and not labels_only:
        data.views = settings.teacher.cache_views or data.views
    own = settings.teacher.source if settings.teacher is not None else None
    return TaskSetup(settings, task, data, dict(models), as_teacher(instantiate(own)) if own is not None else None)


def teacher_setup(settings: TaskSettings) -> TaskSetup:
    """Build task and data for the teacher's own training: its own processor, or the data's where it brings none.

    Unlabelled text, mixed images, and augmentations that may change a row's label are for the teacher to label, not to
    learn from.
    """
    pretrained = settings.teacher.pretrained if settings.teacher is not None else None
    without = ["unlabelled", "mix", "views"] + ["tokenizer"] * (pretrained is not None)
    kept = getattr(get_object(settings.data["_target_"]), "augments_labelled", False)
    without += [] if kept else ["augment"]
    without += ["mean", "std"] * (pretrained is not None)  # it is normalised by its own processor
    task, data = _task_and_data(settings, {key: None for key in without if key in settings.data})
    data.for_teacher()
    if data.needs_processor:
        if pretrained is not None:
            data.processor = data.load_processor(pretrained)
        else:
            wanted = data.processor or _students_processor(settings.student) or "train"
            data.processor = data.load_processor(wanted) if isinstance(wanted, str) else wanted
    return TaskSetup(settings, task, data)


def _task_and_data(settings: TaskSettings, changes: Mapping[str, Any]) -> tuple[Task, DataModule]:
    data = instantiate({**settings.data, **changes})
    if not isinstance(data, DataModule):
        raise ConfigError(
            f"'data' builds a {type(data).__name__}, which is no kd_lightning.data.DataModule: subclass that, or "
            "kd_lightning.data.RowDataModule."
        )
    task_without_metrics(settings.task).check_data(data)  # metrics of another task may not fit the number of labels
    return instantiate(_with_classes(settings.task, data), _convert_="all"), data


def _with_classes(node: Any, data: DataModule) -> Any:
    """Return a task's node whose metrics have the number of classes where only the training rows tell it."""
    if not isinstance(node, Mapping):
        return node
    sizes = ("num_classes", "num_labels")
    return {k: data.num_labels if k in sizes and v is None else _with_classes(v, data) for k, v in node.items()}


def task_without_metrics(node: Node) -> Task:
    """Return a task that can be asked everything but its scores."""
    return instantiate({**node, "metrics": {}}, _convert_="all")


def _students_processor(student: Node) -> str | None:
    """Return where a student's own tokenizer is: that of a saved one, or of a pretrained one."""
    path = student.get("path")
    return str(model_folder(Path(path), "student.path", "saved model")) if path else student.get("name")
