"""The root of every configuration, typed: a misspelled key or a wrong type fails while composing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore


@dataclass
class TrainSchema:
    """Keys at the root of `configs/train.yaml`; groups stay open, their targets check themselves."""

    data: Any = field(default_factory=dict)
    task: Any = field(default_factory=dict)
    tasks: Any = field(default_factory=dict)
    teacher: Any = field(default_factory=dict)
    student: Any = field(default_factory=dict)
    objective: Any = field(default_factory=dict)
    optimizer: Any = field(default_factory=dict)
    scheduler: Any = None
    trainer: Any = field(default_factory=dict)
    logger: Any = None
    callbacks: Any = None
    temperature: float = 4.0
    tau: float = 1.0
    seed: int = 0
    baseline: bool = False
    cache: bool = False
    compile: bool = False
    resume: str | None = None


def register() -> None:
    """Put the schema where `configs/train.yaml` looks for it."""
    ConfigStore.instance().store(name="train_schema", node=TrainSchema)
