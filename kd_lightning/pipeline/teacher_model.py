"""The teacher's model: before it is fine-tuned, and loaded from where it was saved."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from torch import nn

from kd_lightning.core.errors import ConfigError
from kd_lightning.core.hashing import digest
from kd_lightning.data import DataModule
from kd_lightning.models.heads import build
from kd_lightning.models.hub import from_hub, locate
from kd_lightning.models.load import load
from kd_lightning.pipeline.checks import missing_positions
from kd_lightning.pipeline.settings import Node, TaskSettings, TeacherSettings, without_module_paths
from kd_lightning.tasks import Task
from kd_lightning.teachers.weights import weights_hash


def fresh_teacher(settings: TaskSettings, task: Task, data: DataModule) -> nn.Module:
    """Return the teacher before fine-tuning: what its `_target_` builds, pretrained weights, or random ones.

    Raises:
        ConfigError: for a model that cannot be found, or one with a new head that is never to be trained.

    """
    teacher = settings.teacher
    if teacher.model is not None:
        return _built(teacher.model, task, data)
    if teacher.pretrained is not None:
        return _pretrained(settings, task, data)
    tokens = {"vocab_size": len(data.processor), "pad_token_id": data.processor.pad_token_id}
    architecture = teacher.architecture or {}
    from transformers import AutoConfig

    config = AutoConfig.for_model(**(tokens | architecture), **task.model_options(data))
    model = build(task.head or "", config)
    if "max_position_embeddings" not in architecture and (missing := missing_positions(model, data)):
        config.max_position_embeddings += missing
        return build(task.head or "", config)
    return model


def teacher_recipe(node: Node, task: Task, data: DataModule) -> Node:
    """Return the `_target_` and all arguments that build a teacher; a `_partial_` builder is also told the labels."""
    plain = {key: value for key, value in node.items() if key != "_partial_"}
    options = {key: value for key, value in task.model_options(data).items() if value is not None}
    return plain | (options if node.get("_partial_") else {})


def _built(node: Node, task: Task, data: DataModule) -> nn.Module:
    model = instantiate(teacher_recipe(node, task, data))
    if isinstance(model, partial) or not isinstance(model, nn.Module):
        raise ConfigError(f"'teacher.model' builds a {type(model).__name__}, and a teacher is an nn.Module.")
    return model


def _pretrained(settings: TaskSettings, task: Task, data: DataModule) -> nn.Module:
    name, options = settings.teacher.pretrained, task.model_options(data)
    model, info = from_hub(task.auto_class().from_pretrained, str(name), output_loading_info=True, **options)
    if info["missing_keys"] and settings.teacher.trainer.get("max_epochs") == 0:
        raise ConfigError(
            f"The teacher '{name}' has no head for {task.head}, and a new one that is never trained teaches nothing: "
            "type teacher.trainer.max_epochs=1, or choose a teacher that has one."
        )
    return model


def origin_of(settings: TaskSettings, task: Task, data: DataModule) -> Any:
    """Return what stands in a fingerprint for the model that is fine-tuned.

    A local folder counts by its files, a hub name by itself, a builder by its arguments and the weights it makes.
    """
    teacher = settings.teacher
    if teacher.model is not None:
        from lightning.pytorch import seed_everything

        seed_everything(settings.seed, verbose=False)
        return [without_module_paths(teacher.model), weights_hash(_built(teacher.model, task, data))]
    if teacher.pretrained is None:
        return teacher.architecture
    folder = Path(locate(teacher.pretrained))
    if not folder.is_dir():
        return teacher.pretrained
    files = [path for pattern in ("*.json", "*.safetensors") for path in sorted(folder.glob(pattern))]
    return digest([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])


def load_teacher(folder: Path, task: Task, teacher: TeacherSettings) -> tuple[nn.Module, Any]:
    """Load a fine-tuned teacher with its head, and its processor (None where it was saved without one).

    Raises:
        ConfigError: for a model without that head, or of parts that were not saved: what is missing would be random.

    """
    if not (folder / "config.json").is_file():
        return load(folder, trust=teacher.model is not None), None
    from transformers import AutoTokenizer

    model, info = task.auto_class().from_pretrained(folder, output_loading_info=True)
    saved = model.config.architectures or [type(model).__name__]
    if info["missing_keys"] or type(model).__name__ not in saved:
        lacks = f"it has no {min(info['missing_keys'])}" if info["missing_keys"] else f"it is a {saved[0]}"
        raise ConfigError(
            f"The teacher in {folder} was not fine-tuned for {task.head}: {lacks}. Choose one "
            "that was, or give its folder as teacher.pretrained, from which a teacher is fine-tuned first."
        )
    return model, AutoTokenizer.from_pretrained(folder)
