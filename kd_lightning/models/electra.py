"""ELECTRA-small as a student, whatever its teacher's family."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import ElectraConfig, PreTrainedConfig

from kd_lightning.core.errors import ConfigError
from kd_lightning.models.shrink import Like, config_of, shrink

SMALL = {
    "num_hidden_layers": 12,
    "hidden_size": 256,
    "embedding_size": 128,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
}
"""Sizes of google/electra-small-discriminator and hfl/chinese-electra-180g-small-discriminator."""

SHARED = ("vocab_size", "pad_token_id", "max_position_embeddings", "id2label", "label2id", "problem_type")
"""What a student of another family has from its teacher."""


def electra_small(like: Like, *, layers: Any = None, **options: Any) -> nn.Module:
    """Build ELECTRA-small (Clark et al. 2020; 14 M with the 30 522 pieces of BERT-base-uncased, head not counted).

    As deep as BERT-base and a third as wide, over embeddings that are narrower still; here with random weights. The
    pretrained one is `pretrained(name="google/electra-small-discriminator")`.

    Args:
        like: the teacher, or its configuration, of any family; gives vocabulary, padding, positions and labels.
        layers: what to start from, as in `shrink`; for an ELECTRA teacher with embeddings of this width only.
        options: the others of `shrink`: `num_labels`, `vocab_size`, `task`, `pad_token_id`, and any field of
            `ElectraConfig`, which then wins over this size.

    Raises:
        ConfigError: for layers of a teacher that is no ELECTRA, and what `shrink` refuses.

    Example:
        >>> from transformers import BertConfig
        >>> student = electra_small(BertConfig(vocab_size=99), num_hidden_layers=2, task="token-classification")
        >>> type(student).__name__, student.config.vocab_size, student.config.embedding_size
        ('ElectraForTokenClassification', 99, 128)

    """
    config = config_of(like)
    if isinstance(config, ElectraConfig):
        return shrink(like, layers=layers, **(SMALL | options))
    if layers is not None:
        raise ConfigError(
            f"An ELECTRA student cannot start from the layers of a {config.model_type} teacher: leave `layers` out, or "
            "choose an ELECTRA teacher."
        )
    return shrink(_electra(config), **(SMALL | options))


def _electra(config: PreTrainedConfig) -> ElectraConfig:
    """Return an ELECTRA's configuration for the same texts and labels."""
    return ElectraConfig(**{name: getattr(config, name) for name in SHARED if hasattr(config, name)})
