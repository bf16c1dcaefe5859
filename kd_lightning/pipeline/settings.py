"""Typed settings of a run: what the stages know of the configuration.

The command makes them from YAML once (`kd_lightning.cli.settle`). What Hydra builds stays a plain dictionary with a
`_target_`; everything that code reads by name is a field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

Node: TypeAlias = dict[str, Any]
"""What Hydra's `instantiate` builds: `_target_` and its arguments, all of them resolved."""

MEAN = "mean"
"""The main metric of several tasks: the mean of theirs."""

ONE_DEVICE: Node = {"devices": 1, "num_nodes": 1, "strategy": "auto"}
"""Trainer arguments of the stages that run in one process."""


@dataclass(frozen=True)
class CacheSettings:
    """How teacher outputs are stored: `configs/teacher`, key `cache`.

    Args:
        dtype: `bf16`, `fp16` or `fp32`.
        top_k: only the largest logits; None: all.

    """

    dtype: str = "bf16"
    top_k: int | None = None


@dataclass(frozen=True)
class TeacherSettings:
    """Which teacher a task has, and how it is made: `configs/teacher`.

    Args:
        name: for messages and folders.
        path: a fine-tuned model's folder, or several by name.
        pretrained: a hub name, a folder or `pkg://package/folder` to fine-tune.
        architecture: a Transformers configuration for random weights to train.
        model: builds a model to fine-tune, any `nn.Module`.
        source: builds a `TeacherSource`, or a model that teaches as it is.
        precision: dtype of a live teacher's weights.
        compile: whether it runs compiled.
        cache: how its outputs are stored.
        weights: of several teachers.
        combine: what of several teachers is averaged: `logits` or `probabilities`.
        trainer: Trainer arguments of its fine-tuning that differ from the run's.
        optimizer: as `trainer`.
        scheduler: as `trainer`; None: no scheduler.

    """

    name: str = "none"
    path: str | dict[str, str] | None = None
    pretrained: str | None = None
    architecture: Node | None = None
    model: Node | None = None
    source: Node | None = None
    precision: str | None = None
    compile: bool = False
    cache: CacheSettings = field(default_factory=CacheSettings)
    weights: dict[str, float] | str | None = None
    combine: str = "logits"
    trainer: Node = field(default_factory=dict)
    optimizer: Node | None = None
    scheduler: Node | None = None

    @property
    def exists(self) -> bool:
        """Whether there is a teacher at all; `teacher=none` has none."""
        made_from = (self.path, self.pretrained, self.architecture, self.model, self.source)
        return any(part is not None for part in made_from)


@dataclass(frozen=True)
class TrainerSettings:
    """How models are fitted: the groups `trainer`, `optimizer`, `scheduler`, `callbacks` and `logger`.

    Args:
        trainer: arguments of Lightning's Trainer.
        optimizer: makes an optimizer of parameter groups.
        scheduler: makes a scheduler of an optimizer.
        callbacks: by name; None: off.
        logger: by name; None: off.

    """

    trainer: Node
    optimizer: Node
    scheduler: Node | None = None
    callbacks: dict[str, Node | None] = field(default_factory=dict)
    logger: dict[str, Node | None] = field(default_factory=dict)

    def on_one_device(self) -> TrainerSettings:
        """Return the same for one process."""
        return replace(self, trainer={**self.trainer, **ONE_DEVICE})

    def quiet(self, **changes: Any) -> Node:
        """Return Trainer arguments of a pass that logs and saves nothing."""
        return {**self.trainer, "logger": False, "enable_checkpointing": False, **changes}


@dataclass(frozen=True)
class TaskSettings:
    """One task of a run: its data, models and objective.

    Args:
        task: builds the `Task`.
        data: builds the data module.
        teacher: which teacher it has.
        student: builds the student, or `path` of a saved one.
        objective: builds the objective.
        fitting: how its models are fitted.
        temperature: at which probabilities of several teachers are averaged.
        seed: of weights and order.
        compile: whether the student runs compiled.
        cache: whether teacher outputs are cached.

    """

    task: Node
    data: Node
    teacher: TeacherSettings
    student: Node
    objective: Node
    fitting: TrainerSettings
    temperature: float = 1.0
    seed: int = 0
    compile: bool = False
    cache: bool = False

    @property
    def data_name(self) -> str:
        """What the data set is called in messages and folders."""
        return self.data.get("name") or "synthetic"

    def labels_only(self) -> TaskSettings:
        """Return the settings of a model that learns from labels alone: without text that has none."""
        return replace(self, data={**self.data, "unlabelled": None}) if "unlabelled" in self.data else self

    def of_teacher(self) -> TaskSettings:
        """Return the settings of the teacher's own training: its trainer, optimizer and scheduler, on one device.

        Augmentations and unlabelled text are for the teacher to label, not to learn from.
        """
        fitting = replace(
            self.fitting,
            trainer=merged(self.fitting.trainer, self.teacher.trainer),
            optimizer=merged(self.fitting.optimizer, self.teacher.optimizer or {}),
            scheduler=None
            if self.teacher.scheduler is None
            else merged(self.fitting.scheduler, self.teacher.scheduler),
        )
        without: Node = {key: None for key in ("augment", "unlabelled") if key in self.data}
        return replace(self, data={**self.data, **without}, fitting=fitting.on_one_device())


@dataclass(frozen=True)
class RunSettings:
    """A whole run.

    Args:
        tasks: by name; one task has the name "".
        plan: builds the stages, by name, in order.
        fitting: how the students are fitted.
        metric: the main metric; of several tasks the mean of theirs.
        mode: `max` or `min`.
        tau: exponent of the tasks' sizes.
        seed: of everything random.
        baseline: whether the student is also trained without a teacher.
        cache: whether teacher outputs are cached.
        config: the resolved configuration, as it is written into `config.yaml` and `metrics.json`.

    """

    tasks: dict[str, TaskSettings]
    plan: dict[str, Node | None]
    fitting: TrainerSettings
    metric: str
    mode: str = "max"
    tau: float = 1.0
    seed: int = 0
    baseline: bool = False
    cache: bool = False
    config: Node = field(default_factory=dict)

    @property
    def has_teacher(self) -> bool:
        """Whether every task has a teacher."""
        return all(task.teacher.exists for task in self.tasks.values())

    def labels_only(self) -> RunSettings:
        """Return the settings of a run that learns from labels alone."""
        return replace(self, tasks={name: task.labels_only() for name, task in self.tasks.items()})


def merged(base: Mapping[str, Any] | None, changes: Mapping[str, Any]) -> Node:
    """Return nested settings with changes, which win; lists and values are replaced whole.

    Example:
        >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": None})
        {'a': {'b': 3, 'c': 2}, 'd': None}

    """
    made = dict(base or {})
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(made.get(key), Mapping)
        made[key] = merged(made[key], value) if nested else value
    return made


def without_module_paths(node: Any) -> Any:
    """Return nested settings in which every `_target_` is the bare name of its class: what fingerprints are made of.

    Example:
        >>> without_module_paths({"loss": {"_target_": "kd_lightning.losses.HardLabel", "label_smoothing": 0.1}})
        {'loss': {'_target_': 'HardLabel', 'label_smoothing': 0.1}}

    """
    if isinstance(node, Mapping):
        bare = {key: without_module_paths(value) for key, value in node.items()}
        return {key: value.rpartition(".")[2] if key == "_target_" else value for key, value in bare.items()}
    return [without_module_paths(value) for value in node] if isinstance(node, list | tuple) else node
