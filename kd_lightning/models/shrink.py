"""A student that is its teacher's architecture with other sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import nn
from transformers import PreTrainedConfig

from kd_lightning.core.errors import ConfigError, hint
from kd_lightning.models.copy_layers import copy_layers
from kd_lightning.models.heads import build

Like: TypeAlias = nn.Module | PreTrainedConfig
"""What a student is made like: a Transformers model, or its configuration."""

# What belongs to the teacher's own life and not to its architecture; Transformers derives the last one from the depth.
_PERSONAL = ("_name_or_path", "architectures", "dtype", "quantization_config", "layer_types")
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
    RoBERTa, ELECTRA, DistilBERT, ModernBERT and their like. Nothing is shared with the teacher; the student is
    float32, on the CPU.

    Args:
        like: the teacher, or its configuration.
        num_labels: classes of the head, where the task has any; the teacher's by default.
        vocab_size: pieces of the student's tokenizer; the teacher's by default.
        task: the head, see `tasks.AUTO_CLASSES`.
        layers: None for random weights; otherwise what to start from: the teacher's layers, counted from 1
            (`[2, 4, 6]`), or a rule (`"uniform"`, `"skip"`, `"last"`). A narrower student keeps evenly spread units
            of them. See `copy_layers`.
        pad_token_id: the student tokenizer's padding; the teacher's by default.
        overrides: fields of the configuration.

    Raises:
        ConfigError: for a teacher that is no such model, an unknown field or task, or sizes that do not go together.
        MatchError: for layers the teacher does not have.

    Example:
        >>> import torch
        >>> from transformers import BertConfig
        >>> tiny = BertConfig(vocab_size=99, hidden_size=24, num_attention_heads=2, intermediate_size=48)
        >>> shrink(tiny, num_hidden_layers=2, vocab_size=50, task="masked-lm")(torch.tensor([[7, 8]])).logits.shape
        torch.Size([1, 2, 50])

    """
    if layers is not None and not isinstance(like, nn.Module):
        raise ConfigError("Starting from a teacher's weights needs the teacher itself, but `like` is a configuration.")
    changes = given(vocab_size=vocab_size, pad_token_id=pad_token_id) | overrides
    student = build(task, resized(config_of(like), num_labels, changes))
    if isinstance(like, nn.Module) and layers is not None:
        copy_layers(like, student, layers)
    return student


def config_of(like: Like) -> PreTrainedConfig:
    """Return the Transformers configuration behind `like`.

    Raises:
        ConfigError: if there is none.

    """
    config = getattr(like, "config", like)
    if not isinstance(config, PreTrainedConfig):
        raise ConfigError(f"Expected a Transformers model or configuration to build like, got {type(like).__name__}.")
    return config


def given(**values: Any) -> dict[str, Any]:
    """Return the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def resized(config: PreTrainedConfig, num_labels: int | None, changes: dict[str, Any]) -> PreTrainedConfig:
    """Return a new configuration of the same class, with `changes` and what follows from them.

    Raises:
        ConfigError: for an unknown field or sizes that do not go together.

    """
    _check_family(config)
    new = _clone(config)
    for name, value in changes.items():
        if not hasattr(new, _field(new, name)):
            raise ConfigError(f"A {type(new).__name__} has no field '{name}'. {hint(name, new.to_dict())}")
        setattr(new, _field(new, name), value)
    if num_labels is not None and num_labels < 1:
        raise ConfigError(f"Expected argument `num_labels` to be at least 1 but got {num_labels}.")
    if num_labels not in (None, config.num_labels):
        new.num_labels, new.problem_type = num_labels, None
    _follow(new, changes)
    _check(new)
    # Fields that are derived when a configuration is made (layer types, say) must see the new sizes.
    return _clone(new)


def _clone(config: PreTrainedConfig) -> PreTrainedConfig:
    fields = {name: value for name, value in config.to_dict().items() if name not in _PERSONAL}
    return type(config).from_dict(fields | {"dtype": None})


def _field(config: PreTrainedConfig, name: str) -> str:
    """DistilBERT alone does not map its feed-forward size to the common name."""
    other = _OTHER_NAMES.get(name, name)
    return name if hasattr(config, name) else other


def _follow(config: Any, changes: dict[str, Any]) -> None:
    """Set the sizes that hang on width and heads, unless they were asked for."""
    width, heads = config.hidden_size, config.num_attention_heads
    follow = {"pooler_hidden_size": width, "num_key_value_heads": heads, "head_dim": width // heads}
    if hasattr(config, "embedding_size"):  # ELECTRA, ALBERT: a narrow embedding stays, one wider than the student not
        follow["embedding_size"] = min(config.embedding_size, width)
    for name, value in follow.items():
        if {"hidden_size", "num_attention_heads"} & changes.keys() and name not in changes and hasattr(config, name):
            setattr(config, name, value)


def _check_family(config: PreTrainedConfig) -> None:
    missing = [name for name in _SIZES if not hasattr(config, _field(config, name))]
    if missing or config.is_encoder_decoder:
        what = f"its configuration has no {missing[0]}" if missing else "it is an encoder-decoder"
        raise ConfigError(f"Cannot shrink a {config.model_type} model: {what}. Build the student yourself and pass it.")


def _check(config: Any) -> None:
    width, heads = config.hidden_size, config.num_attention_heads
    if width % heads:
        raise ConfigError(f"Attention heads must divide the student's width, but {heads} do not divide {width}.")
    check_padding(config.pad_token_id, config.vocab_size)


def check_padding(pad: int | None, vocabulary: int) -> None:
    """Raise `ConfigError` where the padding token is not in the vocabulary."""
    if pad is not None and not 0 <= pad < vocabulary:
        raise ConfigError(f"The padding token {pad} is outside a vocabulary of {vocabulary}: give `pad_token_id`.")
