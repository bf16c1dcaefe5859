"""Building a BiGRU for a teacher."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kd_lightning.core.errors import ConfigError, hint
from kd_lightning.models.bigru_model import BiGRUConfig, register
from kd_lightning.models.heads import build
from kd_lightning.models.shrink import Like, check_padding, config_of, given

HEADS = ("sequence-classification", "token-classification", "feature-extraction")
"""What a BiGRU can be built for."""


def bigru(
    like: Like,
    *,
    num_labels: int = 2,
    vocab_size: int | None = None,
    task: str = "sequence-classification",
    layers: None = None,
    pad_token_id: int | None = None,
    embeddings: bool = False,
    **overrides: Any,
) -> nn.Module:
    """Build the TextBrewer paper's BiGRU (31 M with BERT-base-cased's vocabulary, head not counted).

    Args:
        like: the teacher, or its configuration; gives the vocabulary and the padding token where they are not given.
        num_labels: classes of the head.
        vocab_size: pieces of the student's tokenizer.
        task: `sequence-classification`, `token-classification` or `feature-extraction`.
        layers: must stay None: a transformer's layers cannot start a GRU.
        pad_token_id: the student tokenizer's padding.
        embeddings: start from a copy of the teacher's word embeddings, which must have the same shape.
        overrides: fields of `BiGRUConfig`.

    Raises:
        ConfigError: for a task it has no head for, layers, an unknown field, or word embeddings of another shape.

    Example:
        >>> from transformers import BertConfig
        >>> bigru(BertConfig(vocab_size=50), hidden_size=8, num_labels=3).config.vocab_size
        50

    """
    if task not in HEADS:
        raise ConfigError(
            f"A BiGRU has no head for {task}, only for {', '.join(HEADS)}. Choose a student of transformer layers: "
            "t6, t3, t3small, t4tiny, t12nano or electra_small."
        )
    if layers is not None:
        raise ConfigError("A BiGRU has no transformer layers to start from its teacher's: leave `layers` out.")
    teacher = config_of(like)
    shared = {"vocab_size": teacher.vocab_size, "pad_token_id": teacher.pad_token_id}
    fields = shared | given(vocab_size=vocab_size, pad_token_id=pad_token_id) | overrides
    register()
    student = build(task, _config(fields, num_labels))
    if embeddings:
        _copy_embeddings(like, student)
    return student


def _config(fields: dict[str, Any], num_labels: int) -> BiGRUConfig:
    known = BiGRUConfig().to_dict()
    for name in fields:
        if name not in known:
            raise ConfigError(f"A BiGRUConfig has no field '{name}'. {hint(name, known)}")
    check_padding(fields["pad_token_id"], fields["vocab_size"])
    return BiGRUConfig.from_dict(fields | {"num_labels": num_labels})


def _copy_embeddings(like: Any, student: Any) -> None:
    if not hasattr(like, "get_input_embeddings"):
        raise ConfigError(
            "Starting from a teacher's embeddings needs the teacher itself, but `like` is a configuration."
        )
    source, target = like.get_input_embeddings().weight, student.get_input_embeddings().weight
    if source.shape != target.shape:
        raise ConfigError(
            f"Starting from the teacher's embeddings needs equal shapes, but the student's are {list(target.shape)} "
            f"and the teacher's {list(source.shape)}."
        )
    with torch.no_grad():
        target.copy_(source)
