"""A lesson: one task of a run, with the models that teach it and its data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from omegaconf import DictConfig, ListConfig
from torch import nn

from kd_lightning.cli.build import build_data, head_of, labels_of, plain
from kd_lightning.cli.tasks import task_configs
from kd_lightning.cli.teacher import check_labels, load_teacher
from kd_lightning.core.errors import ConfigError
from kd_lightning.teachers import EnsembleTeacher, LiveTeacher, TeacherSource, as_teacher

Folders: TypeAlias = Mapping[str, Mapping[str, str]]
"""Where the teachers are: task → teacher's name → folder."""

FOLDERS = "teachers.json"
"""The file in a run's folder that says so."""


@dataclass
class Lesson:
    """What one task is taught with.

    Args:
        cfg: the task's whole configuration.
        models: the teachers by name; none where the student learns from labels alone.
        data: the data module, with its tokenizers.

    """

    cfg: DictConfig
    models: dict[str, nn.Module]
    data: Any

    @property
    def model(self) -> nn.Module | None:
        """The teacher, the first of several; students are made like it."""
        return next(iter(self.models.values()), None)

    def source(self, compile: bool = False) -> TeacherSource | None:
        """Return the teacher, or several as one, as they teach: in the configured precision."""
        teacher = self.cfg.teacher
        sources: dict[str, TeacherSource | nn.Module] = {
            name: LiveTeacher(model, precision=teacher.precision, compile=compile)
            for name, model in self.models.items()
        }
        if len(sources) < 2:
            return as_teacher(next(iter(sources.values()))) if sources else None
        weights = teacher.get("weights")
        weights = plain(weights) if isinstance(weights, DictConfig | ListConfig) else weights
        multilabel = bool(self.cfg.task.get("multilabel"))
        return EnsembleTeacher(sources, weights, teacher.get("combine", "logits"), self.cfg.temperature, multilabel)


def load_lessons(cfg: DictConfig, run_dir: Path) -> dict[str, Lesson]:
    """Load every task's teachers and data; a run of one task has one lesson, without a name."""
    folders: Folders = json.loads((run_dir / FOLDERS).read_text())
    lessons: dict[str, Lesson] = {}
    for task, own in task_configs(cfg).items():
        first = next(iter(lessons.values()), None)
        lessons[task] = _load(own, folders[task], first.data.processor if first is not None else None)
    return lessons


def _load(cfg: DictConfig, folders: Mapping[str, str], tokenizer: Any = None) -> Lesson:
    """Load one task's teachers and data.

    Args:
        cfg: the task's configuration.
        folders: its teachers.
        tokenizer: the student's, where an earlier task has settled it.

    """
    loaded = {name: load_teacher(Path(folder), head_of(cfg)) for name, folder in folders.items()}
    tokenizers = {name: own for name, (_, own) in loaded.items()}
    _check_same(tokenizers)
    data = build_data(cfg, next(iter(tokenizers.values()), None), tokenizer)
    if data.processor is None and data.needs_processor:  # no teacher, and none given
        data.processor = data.load_processor("train")
    for name, (model, _) in loaded.items():
        if data.num_labels is not None:
            check_labels(model, data.num_labels, Path(folders[name]), labels_of(data).get("id2label"))
    return Lesson(cfg, {name: model for name, (model, _) in loaded.items()}, data)


def _check_same(tokenizers: Mapping[str, Any]) -> None:
    first, one = next(iter(tokenizers.items()), ("", None))
    for name, other in tokenizers.items():
        if one is not None and one.get_vocab() != other.get_vocab():
            raise ConfigError(
                f"The teachers '{first}' ({len(one)} pieces) and '{name}' ({len(other)} pieces) have different "
                "tokenizers, and one batch feeds all teachers. Choose teachers with one vocabulary."
            )
