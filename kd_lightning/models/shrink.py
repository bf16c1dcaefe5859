"""A student of its teacher's architecture with other sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import nn
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from kd_lightning.core.errors import ConfigError, hint
from kd_lightning.models.copy_layers import copy_layers
from kd_lightning.models.heads import build

Like: TypeAlias = nn.Module | PreTrainedConfig
"""The teacher that a student is built like: a Transformers model, or its configuration."""

# Fields of one trained model, not of its architecture; Transformers derives the last one from the depth.
_NOT_INHERITED = ("_name_or_path", "architectures", "dtype", "quantization_config", "layer_types")
_SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
_OTHER_NAMES = {"intermediate_size": "hidden_dim"}


def shrink(
    like: Like,
    *,
    num_labels: int | None = None,
    vocab_size: int | None = None,
    task: str = "sequence-classification",
    layers: str | Sequence[int] | None = None,
    pad_token_id: int | None = None,
    **overrides: Any,
) -> nn.Module:
    """Build a student of the teacher's architecture family, with some sizes changed.

    Works for encoders whose configuration has a depth, a width, a number of heads and a feed-forward size: BERT,
    RoBERTa, ELECTRA, DistilBERT, ModernBERT and their like, and of images ViT and DeiT. Nothing is shared with the
    teacher; the student is float32, on the CPU.

    Args:
        like: the teacher, or its configuration.
        num_labels: classes of the head, where the task has any; the teacher's by default.
        vocab_size: size of the student's vocabulary; the teacher's by default.
        task: the head, see `kd_lightning.models.heads.AUTO_CLASSES`.
        layers: None for random weights; otherwise the teacher's layers to copy, counted from 1 (`[2, 4, 6]`), or a
            rule (`"uniform"`, `"skip"`, `"last"`). A narrower student keeps evenly spread units of them. See
            `copy_layers`.
        pad_token_id: the student tokenizer's padding; the teacher's by default.
        overrides: fields of the configuration.

    Raises:
        ConfigError: if the teacher is no such model, a field or the task is unknown, or the sizes contradict each
            other.
        MatchError: if the teacher does not have the layers.

    Example:
        >>> import torch
        >>> from transformers import BertConfig
        >>> tiny = BertConfig(vocab_size=99, hidden_size=24, num_attention_heads=2, intermediate_size=48)
        >>> shrink(tiny, num_hidden_layers=2, vocab_size=50, task="masked-lm")(torch.tensor([[7, 8]])).logits.shape
        torch.Size([1, 2, 50])

    """
    if layers is not None and not isinstance(like, nn.Module):
        raise ConfigError(
            f"layers={layers!r} starts from a teacher's weights, but `like` is a configuration and no model: give a "
            "teacher, or layers=None (student.layers=null)."
        )
    changes = given(vocab_size=vocab_size, pad_token_id=pad_token_id) | overrides
    student = build(task, resized(config_of(like), num_labels, changes))
    if isinstance(like, nn.Module) and layers is not None:
        copy_layers(like, student, layers)
    return student


def config_of(like: Like) -> PreTrainedConfig:
    """Return the Transformers configuration of `like`.

    Raises:
        ConfigError: if it has none.

    """
    config = getattr(like, "config", like)
    if not isinstance(config, PreTrainedConfig):
        raise ConfigError(f"Expected a Transformers model or configuration to build like, got {type(like).__name__}.")
    return config


def given(**values: Any) -> dict[str, Any]:
    """Return the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def resized(config: PreTrainedConfig, num_labels: int | None, changes: dict[str, Any]) -> PreTrainedConfig:
    """Return a new configuration of the same class, with `changes` and the sizes that follow from them.

    Raises:
        ConfigError: if the family cannot be shrunk, a field is unknown, or the sizes contradict each other.

    """
    missing = [name for name in _SIZES if not hasattr(config, _field(config, name))]
    if missing or config.is_encoder_decoder:
        what = f"its configuration has no {missing[0]}" if missing else "it is an encoder-decoder"
        raise ConfigError(f"Cannot shrink a {config.model_type} model: {what}. Build the student yourself and pass it.")
    new = changed(config, num_labels, changes)
    _follow(new, changes)
    for name in _SIZES:
        if not (isinstance(size := getattr(new, _field(new, name)), int) and size > 0):
            raise ConfigError(f"A student's {name} is a whole number, at least 1; got {size!r}.")
    if new.hidden_size % new.num_attention_heads:
        raise ConfigError(
            f"Attention heads must divide the student's width, but {new.num_attention_heads} do not divide "
            f"{new.hidden_size}."
        )
    if hasattr(new, "vocab_size"):
        check_padding(new.pad_token_id, new.vocab_size)
    # Fields that are derived when a configuration is made (layer types, say) must follow from the new sizes.
    return _clone(new)


def changed(config: PreTrainedConfig, num_labels: int | None, changes: dict[str, Any]) -> Any:
    """Return a new configuration of the same class with other fields; names of labels stay where their number does.

    Raises:
        ConfigError: if a field is unknown, or there are no labels.

    """
    new: Any = _clone(config)
    for name, value in changes.items():
        if not hasattr(new, _field(new, name)):
            raise ConfigError(f"A {type(new).__name__} has no field '{name}'. {hint(name, new.to_dict())}")
        if name.endswith("_act") and isinstance(value, str) and value not in ACT2FN:
            raise ConfigError(f"A student's {name} cannot be '{value}'. {hint(value, ACT2FN)}")
        try:
            setattr(new, _field(new, name), value)
        except Exception as error:  # Transformers checks the types of some families' fields
            raise ConfigError(f"A student's {name} cannot be {value!r}.") from error
    if num_labels is not None and num_labels < 1:
        raise ConfigError(f"Expected argument `num_labels` to be at least 1 but got {num_labels}.")
    if num_labels not in (None, config.num_labels):
        new.num_labels, new.problem_type = num_labels, None
    return new


def _clone(config: PreTrainedConfig) -> PreTrainedConfig:
    fields = {name: value for name, value in config.to_dict().items() if name not in _NOT_INHERITED}
    return type(config).from_dict(fields | {"dtype": None})


def _field(config: PreTrainedConfig, name: str) -> str:
    """DistilBERT alone does not map its feed-forward size to the common name."""
    other = _OTHER_NAMES.get(name, name)
    return name if hasattr(config, name) else other


def _follow(config: Any, changes: dict[str, Any]) -> None:
    """Set the sizes that depend on width and heads, unless they were given."""
    width, heads = config.hidden_size, config.num_attention_heads
    follow = {"pooler_hidden_size": width, "num_key_value_heads": heads, "head_dim": width // heads}
    follow["pooler_output_size"] = width  # of image models
    if hasattr(config, "embedding_size"):  # ELECTRA, ALBERT: a narrow embedding stays, one wider than the student not
        follow["embedding_size"] = min(config.embedding_size, width)
    for name, value in follow.items():
        if {"hidden_size", "num_attention_heads"} & changes.keys() and name not in changes and hasattr(config, name):
            setattr(config, name, value)


def check_padding(pad: int | None, vocabulary: int) -> None:
    """Raise ConfigError if the padding token is not in the vocabulary."""
    if pad is not None and not 0 <= pad < vocabulary:
        raise ConfigError(f"The padding token {pad} is outside a vocabulary of {vocabulary}: give `pad_token_id`.")
