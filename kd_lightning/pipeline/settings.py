"""Typed settings of a run: what the stages know of the configuration.

The command makes them from YAML once (`kd_lightning.cli.settle`). What Hydra builds stays a plain dictionary with a
`_target_`; everything that code reads by name is a field, and what follows from several values is computed once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Node: TypeAlias = dict[str, Any]
"""What Hydra's `instantiate` builds: `_target_` and its arguments, all of them resolved."""

MEAN = "mean"
"""The main metric of several tasks: the mean of theirs."""

ONE_DEVICE: Node = {"devices": 1, "num_nodes": 1, "strategy": "auto"}
"""Trainer arguments of what runs in one process."""


@dataclass(frozen=True)
class FittingSettings:
    """How a model is fitted: the groups `trainer`, `optimizer`, `scheduler`, `callbacks` and `logger`.

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


@dataclass(frozen=True)
class TeacherSettings:
    """Which teacher a task has, and how it is made: `configs/teacher`.

    Args:
        fitting: how it is fine-tuned: the run's settings with those of the teacher, on one device.
        name: for messages and folders.
        path: a fine-tuned model's folder, or several by name.
        pretrained: a hub name, a folder or `pkg://package/folder` to fine-tune.
        architecture: a Transformers configuration for random weights to train.
        model: builds a model to fine-tune, any `nn.Module`.
        source: builds a `TeacherSource`, or a model that teaches as it is.
        precision: dtype of a live teacher's weights.
        compile: whether it runs compiled.
        cache_dtype: of stored outputs: `bf16`, `fp16` or `fp32`.
        cache_top_k: only the largest logits are stored; None: all.
        cache_views: of rows that are augmented: how many views are stored, which repeat; None: rows are not.
        weights: of several teachers.
        combine: what of several teachers is averaged: `logits` or `probabilities`.

    """

    fitting: FittingSettings
    name: str = "none"
    path: str | dict[str, str] | None = None
    pretrained: str | None = None
    architecture: Node | None = None
    model: Node | None = None
    source: Node | None = None
    precision: str | None = None
    compile: bool = False
    cache_dtype: str = "bf16"
    cache_top_k: int | None = None
    cache_views: int | None = None
    weights: dict[str, float] | str | None = None
    combine: str = "logits"


NO_ARGUMENTS = ("trainer", "optimizer", "scheduler", "cache", "mlm_epochs")
"""Further keys of a teacher's configuration that are no arguments of its `_target_`."""

TEACHER_KEYS = frozenset({*TeacherSettings.__dataclass_fields__, *NO_ARGUMENTS})
"""All of them."""


@dataclass(frozen=True)
class TaskSettings:
    """One task of a run: its data, models and objective.

    Args:
        task: builds the `Task`.
        data: builds the data module.
        teacher: which teacher it has; None: no teacher.
        student: builds the student, or `path` of a saved one.
        objective: builds the objective.
        fitting: how its student is fitted.
        curriculum: builds what says in which order rows come in; None: all from the start.
        strategy: builds what changes the student's forward pass in training steps; None: nothing.
        temperature: at which probabilities of several teachers are averaged.
        seed: of weights and order.
        compile: whether the student runs compiled.
        cache: whether teacher outputs are cached.

    """

    task: Node
    data: Node
    teacher: TeacherSettings | None
    student: Node
    objective: Node
    fitting: FittingSettings
    strategy: Node | None = None
    curriculum: Node | None = None
    temperature: float = 1.0
    seed: int = 0
    compile: bool = False
    cache: bool = False


@dataclass(frozen=True)
class RunSettings:
    """A whole run.

    Args:
        tasks: by name; one task has the name "".
        plan: builds the stages, by name, in order.
        shares_cache: whether its data and teachers are the run's, whose cached outputs count for it then.
        stages: whole settings of the stages that change something of the run's, by name.
        fitting: how the students are fitted.
        metric: the main metric; of several tasks the mean of theirs.
        has_teacher: whether every task has a teacher.
        tau: exponent of the tasks' sizes.
        seed: of everything random.
        config: the resolved configuration, as it is written into `config.yaml` and `metrics.json`.

    """

    tasks: dict[str, TaskSettings]
    plan: dict[str, Node | None]
    fitting: FittingSettings
    metric: str
    has_teacher: bool
    tau: float = 1.0
    seed: int = 0
    config: Node = field(default_factory=dict)
    shares_cache: bool = True
    stages: dict[str, RunSettings] = field(default_factory=dict)

    def of(self, stage: str) -> RunSettings:
        """Return the settings of a stage: the run's own where it changes nothing."""
        return self.stages.get(stage, self)


def merged(base: Mapping[str, Any] | None, changes: Mapping[str, Any] | None) -> Node:
    """Return nested settings with changes, which win; lists and values are replaced whole.

    Example:
        >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": None})
        {'a': {'b': 3, 'c': 2}, 'd': None}

    """
    made = dict(base or {})
    for key, value in (changes or {}).items():
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
