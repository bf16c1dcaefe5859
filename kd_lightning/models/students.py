"""Students of published sizes: those of the TextBrewer paper (Yang et al. 2020, table 1), and ELECTRA-small.

Published parameter counts leave out the task head and hold for the vocabulary of BERT-base-cased (28 996 pieces).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import ElectraConfig

from kd_lightning.core.errors import ConfigError
from kd_lightning.models.shrink import Like, config_of, shrink


def t6(like: Like, *, num_hidden_layers: int = 6, **options: Any) -> nn.Module:
    """Build T6 (65 M): six layers, everything else the teacher's; DistilBERT's and BERT-PKD's size.

    Args:
        like: the teacher, or its configuration.
        num_hidden_layers: number of layers.
        options: those of `shrink`: `num_labels`, `vocab_size`, `task`, `layers`, `pad_token_id`, and any field of the
            configuration, which then overrides this size.

    Example:
        >>> from transformers import BertConfig
        >>> tiny = BertConfig(vocab_size=99, hidden_size=24, num_attention_heads=2, intermediate_size=48)
        >>> t6(tiny, num_labels=3).config.num_hidden_layers
        6

    """
    return shrink(like, num_hidden_layers=num_hidden_layers, **options)


def t3(like: Like, *, num_hidden_layers: int = 3, **options: Any) -> nn.Module:
    """Build T3 (44 M): three layers, everything else the teacher's. Options as in `t6`."""
    return shrink(like, num_hidden_layers=num_hidden_layers, **options)


def t3_small(
    like: Like,
    *,
    num_hidden_layers: int = 3,
    hidden_size: int = 384,
    num_attention_heads: int = 12,
    intermediate_size: int = 1536,
    **options: Any,
) -> nn.Module:
    """Build T3-small (17 M): three layers of half BERT-base's width. Options as in `t6`."""
    return shrink(
        like,
        num_hidden_layers=num_hidden_layers,
        hidden_size=hidden_size,
        num_attention_heads=num_attention_heads,
        intermediate_size=intermediate_size,
        **options,
    )


def t4_tiny(
    like: Like,
    *,
    num_hidden_layers: int = 4,
    hidden_size: int = 312,
    num_attention_heads: int = 12,
    intermediate_size: int = 1200,
    **options: Any,
) -> nn.Module:
    """Build T4-tiny (14 M): four layers of width 312, the size of TinyBERT (Jiao et al. 2020). Options as in `t6`."""
    return shrink(
        like,
        num_hidden_layers=num_hidden_layers,
        hidden_size=hidden_size,
        num_attention_heads=num_attention_heads,
        intermediate_size=intermediate_size,
        **options,
    )


def t12_nano(
    like: Like,
    *,
    num_hidden_layers: int = 12,
    hidden_size: int = 256,
    num_attention_heads: int = 4,
    intermediate_size: int = 1024,
    **options: Any,
) -> nn.Module:
    """Build T12-nano (17 M): as deep as BERT-base, with ELECTRA-small's width and heads. Options as in `t6`."""
    return shrink(
        like,
        num_hidden_layers=num_hidden_layers,
        hidden_size=hidden_size,
        num_attention_heads=num_attention_heads,
        intermediate_size=intermediate_size,
        **options,
    )


def electra_small(
    like: Like,
    *,
    layers: str | Sequence[int] | None = None,
    num_hidden_layers: int = 12,
    hidden_size: int = 256,
    embedding_size: int = 128,
    num_attention_heads: int = 4,
    intermediate_size: int = 1024,
    **options: Any,
) -> nn.Module:
    """Build ELECTRA-small (Clark et al. 2020; 14 M with the 30 522 pieces of BERT-base-uncased, head not counted).

    As deep as BERT-base and a third as wide, over embeddings that are narrower still: the sizes of
    google/electra-small-discriminator and hfl/chinese-electra-180g-small-discriminator, with random weights. The
    pretrained one is `pretrained("google/electra-small-discriminator")`.

    Args:
        like: the teacher, or its configuration, of any family; gives vocabulary, padding, positions and labels.
        layers: the teacher layers to copy, as in `shrink`; for an ELECTRA teacher with embeddings of this width only.
        num_hidden_layers: number of layers.
        hidden_size: width.
        embedding_size: width of the embeddings.
        num_attention_heads: heads of each layer.
        intermediate_size: width of the feed-forward layers.
        options: the others of `shrink`: `num_labels`, `vocab_size`, `task`, `pad_token_id`, and any field of
            `ElectraConfig`.

    Raises:
        ConfigError: if `layers` is given and the teacher is not an ELECTRA, or as in `shrink`.

    Example:
        >>> from transformers import BertConfig
        >>> student = electra_small(BertConfig(vocab_size=99), num_hidden_layers=2, task="token-classification")
        >>> type(student).__name__, student.config.vocab_size, student.config.embedding_size
        ('ElectraForTokenClassification', 99, 128)

    """
    config = config_of(like)
    if not isinstance(config, ElectraConfig):
        if layers is not None:
            raise ConfigError(
                f"An ELECTRA student cannot start from the layers of a {config.model_type} teacher: leave `layers` "
                "out, or choose an ELECTRA teacher."
            )
        shared = ("vocab_size", "pad_token_id", "max_position_embeddings", "id2label", "label2id", "problem_type")
        like = ElectraConfig(**{name: getattr(config, name) for name in shared if hasattr(config, name)})
    return shrink(
        like,
        layers=layers,
        num_hidden_layers=num_hidden_layers,
        hidden_size=hidden_size,
        embedding_size=embedding_size,
        num_attention_heads=num_attention_heads,
        intermediate_size=intermediate_size,
        **options,
    )
