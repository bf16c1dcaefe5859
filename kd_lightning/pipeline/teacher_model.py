"""The teacher's Transformers model: pretrained or random before it is fine-tuned, and loaded after that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig

from kd_lightning.core.errors import ConfigError, KDError, hint
from kd_lightning.core.hashing import digest
from kd_lightning.data import DataModule
from kd_lightning.models.early_exit import PREFIX
from kd_lightning.models.heads import build
from kd_lightning.models.hub import from_hub, locate
from kd_lightning.models.load import load
from kd_lightning.pipeline.checks import missing_positions, no_model
from kd_lightning.tasks import Task


def pretrained_teacher(name: str, task: Task, data: DataModule, trained: bool) -> nn.Module:
    """Return a pretrained model with the task's head.

    Args:
        name: a hub name, a folder, or `pkg://package/folder`.
        task: whose head it gets.
        data: whose labels the head has.
        trained: whether it is going to be trained.

    Raises:
        ConfigError: it cannot be found, or has a new head that is never to be trained.

    """
    options = task.model_options(data) | {"ignore_mismatched_sizes": True, "output_loading_info": True}
    model, info = from_hub(task.auto_class().from_pretrained, name, **options)
    _check_only_heads_differ(model, name, info["mismatched_keys"])
    if (info["missing_keys"] or info["mismatched_keys"]) and not trained:
        raise ConfigError(
            f"The teacher '{name}' has no head for {task.head}, and a new one that is never trained teaches nothing: "
            "type teacher.trainer.max_epochs=1, or choose a teacher that has one."
        )
    return model


def _check_only_heads_differ(model: Any, name: str, mismatched: Iterable[tuple[str, Any, Any]]) -> None:
    """Raise an error where more than a head of another number of labels would start anew."""
    body = f"{model.base_model_prefix}."
    # Transformers gives a set: sorted, so that the error names the same weight each time
    wrong = next(((key, theirs, ours) for key, theirs, ours in sorted(mismatched) if key.startswith(body)), None)
    if wrong is not None:
        key, theirs, ours = wrong
        raise ConfigError(
            f"The weights of the teacher '{name}' do not fit its configuration: '{key}' is {list(theirs)}, but "
            f"{list(ours)} in the model."
        )


def random_teacher(architecture: dict[str, Any], task: Task, data: DataModule) -> nn.Module:
    """Return a model with random weights for the data's vocabulary or images, with positions for its longest rows.

    Args:
        architecture: fields of its configuration, `model_type` among them.
        task: whose head it gets.
        data: whose labels it has, and whose vocabulary or size of images.

    Raises:
        ConfigError: for fields that are none of that model, or sizes of which none can be made.

    """
    check_architecture(architecture)
    try:
        return _random_teacher(architecture, task, data)
    except KDError:
        raise
    except Exception as error:  # of many kinds, from deep within Transformers and torch
        sizes = [name for name, value in architecture.items() if isinstance(value, int) and value < 1]
        near = f" A size is at least 1: look at {sizes[0]}." if sizes else ""
        raise ConfigError(no_model("teacher.architecture", error) + near) from error


def _random_teacher(architecture: dict[str, Any], task: Task, data: DataModule) -> nn.Module:
    inputs = data.input_options(teacher=True)
    if "image_size" in inputs and not hasattr(AutoConfig.for_model(**architecture), "image_size"):
        del inputs["image_size"]  # ResNet's has none, and takes images of any size
    config = AutoConfig.for_model(**(inputs | architecture), **task.model_options(data))
    model = build(task.head or "", config)
    if "max_position_embeddings" not in architecture and (missing := missing_positions(model, data)):
        config.max_position_embeddings += missing
        return build(task.head or "", config)
    return model


def check_architecture(architecture: dict[str, Any]) -> None:
    """Raise an error for fields that no such configuration has, or sizes that no model can have.

    Raises:
        ConfigError: naming the key.

    Example:
        >>> check_architecture({"model_type": "bertt"})
        Traceback (most recent call last):
        ...
        kd_lightning.core.errors.ConfigError: 'teacher.architecture.model_type' cannot be 'bertt'. Closest: bert, ...

    """
    kind, known = architecture.get("model_type"), list(CONFIG_MAPPING.keys())
    if kind not in known:
        raise ConfigError(f"'teacher.architecture.model_type' cannot be {kind!r}. {hint(str(kind), known)}")
    config = CONFIG_MAPPING[kind]()
    fields = {*config.to_dict(), *config.attribute_map}
    for key, value in architecture.items():
        if key not in fields:
            raise ConfigError(f"There is no key 'teacher.architecture.{key}' in a {kind}. {hint(key, fields)}")
        counts = isinstance(getattr(config, key), int) and key.startswith(("num_", "hidden_size", "intermediate_size"))
        if counts and (not isinstance(value, int) or value < 1):
            raise ConfigError(f"'teacher.architecture.{key}' cannot be {value!r}: it is a whole number, at least 1.")


def origin_of(name: str) -> str:
    """Return what stands in a fingerprint for pretrained weights: a hash of a local folder's files, or the hub name."""
    folder = Path(locate(name))
    if not folder.is_dir():
        return name
    files = [path for pattern in ("*.json", "*.safetensors") for path in sorted(folder.glob(pattern))]
    return digest([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])


def _has_exits(folder: Path) -> bool:
    """Return whether a saved model has branches, with which plain Transformers would not open it."""
    try:
        names = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures")
    except (OSError, ValueError, AttributeError):  # damaged: who opens it says so
        return False
    return bool(isinstance(names, list) and names and str(names[0]).startswith(PREFIX))


def load_teacher(folder: Path, task: Task, trust: bool = False) -> tuple[nn.Module, Any]:
    """Load a fine-tuned teacher with its head, and the processor saved with it (see `Task.saved_processor`).

    Args:
        folder: what `kd.export` or `save_pretrained` wrote.
        task: whose head it has.
        trust: whether a recipe in the folder may build any class, as one that this run's settings name.

    Raises:
        ConfigError: for a model without that head, or of parts that were not saved: what is missing would be random.

    """
    if not (folder / "config.json").is_file():
        return load(folder, trust), task.saved_processor(folder)
    if task.head == "sequence-classification" and _has_exits(folder):
        return load(folder), task.saved_processor(folder)
    options: dict[str, Any] = {"output_loading_info": True, "local_files_only": True}
    model, info = from_hub(task.auto_class().from_pretrained, str(folder), **options)
    saved = model.config.architectures or [type(model).__name__]
    if info["missing_keys"] or type(model).__name__ not in saved:
        lacks = f"it has no {min(info['missing_keys'])}" if info["missing_keys"] else f"it is a {saved[0]}"
        raise ConfigError(
            f"The teacher in {folder} was not fine-tuned for {task.head}: {lacks}. Choose one "
            "that was, or give its folder as teacher.pretrained, from which a teacher is fine-tuned first."
        )
    return model, task.saved_processor(folder)
