"""A student that starts from one that was saved: distilled on plain text first, then on a task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoConfig

from kd_lightning.models.bigru_model import register
from kd_lightning.models.heads import auto_class, build
from kd_lightning.models.hub import from_hub, model_folder


def saved(folder: str | Path, *, task: str = "sequence-classification", **head: Any) -> nn.Module:
    """Load a student with the head of a task; a head that was saved for the same task and labels is kept.

    Task-agnostic distillation comes first and a task second in DistilBERT (Sanh et al. 2019) and TinyBERT (Jiao et al.
    2020).

    Args:
        folder: what `kd.export` or `save_pretrained` wrote.
        task: the head, see `tasks.AUTO_CLASSES`.
        head: fields of the configuration that say of the labels, such as `num_labels`.

    Raises:
        ConfigError: for a folder that holds no model.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> tiny = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
        >>> with TemporaryDirectory() as folder:
        ...     BertForMaskedLM(tiny).save_pretrained(folder)
        ...     type(saved(folder, task="token-classification", num_labels=5)).__name__
        'BertForTokenClassification'

    """
    register()
    name = str(model_folder(Path(folder).expanduser(), "student.path", "saved model"))
    config = AutoConfig.from_pretrained(name)
    options = {"ignore_mismatched_sizes": True, "dtype": "float32"}  # other labels: a new head
    model = from_hub(auto_class(task).from_pretrained, name, **head, **options)
    if _same_head(config, model, head.get("id2label")):
        return model
    fresh = build(task, model.config)
    fresh.base_model.load_state_dict(model.base_model.state_dict())
    return fresh


def _same_head(config: Any, model: Any, names: Mapping[int, str] | None) -> bool:
    """Tell whether a model was saved with the head it has now, and for the same labels."""
    unnamed = {number: f"LABEL_{number}" for number in config.id2label}
    same_labels = names is None or dict(config.id2label) in (dict(names), unnamed)
    return same_labels and type(model).__name__ in (config.architectures or ())
