"""Student sizes of the TextBrewer paper (Yang et al. 2020, table 1), each built like its teacher.

Published parameter counts leave out the task head and hold for the vocabulary of BERT-base-cased (28 996 pieces).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from kd_lightning.models.shrink import Like, shrink


def t6(like: Like, **options: Any) -> nn.Module:
    """Build T6 (65 M): six layers, everything else the teacher's; DistilBERT's and BERT-PKD's size.

    Args:
        like: the teacher, or its configuration.
        options: those of `shrink`: `num_labels`, `vocab_size`, `task`, `layers`, `pad_token_id`, and any field of the
            configuration, which then wins over this size.

    Example:
        >>> from transformers import BertConfig
        >>> tiny = BertConfig(vocab_size=99, hidden_size=24, num_attention_heads=2, intermediate_size=48)
        >>> t6(tiny, num_labels=3).config.num_hidden_layers
        6

    """
    return shrink(like, **({"num_hidden_layers": 6} | options))


def t3(like: Like, **options: Any) -> nn.Module:
    """Build T3 (44 M): three layers, everything else the teacher's. Options as in `t6`."""
    return shrink(like, **({"num_hidden_layers": 3} | options))


def t3_small(like: Like, **options: Any) -> nn.Module:
    """Build T3-small (17 M): three layers of half BERT-base's width. Options as in `t6`."""
    return shrink(like, **(_sizes(layers=3, hidden=384, heads=12, feed_forward=1536) | options))


def t4_tiny(like: Like, **options: Any) -> nn.Module:
    """Build T4-tiny (14 M): four layers of width 312, the size of TinyBERT (Jiao et al. 2020). Options as in `t6`."""
    return shrink(like, **(_sizes(layers=4, hidden=312, heads=12, feed_forward=1200) | options))


def t12_nano(like: Like, **options: Any) -> nn.Module:
    """Build T12-nano (17 M): as deep as BERT-base, with ELECTRA-small's width and heads. Options as in `t6`."""
    return shrink(like, **(_sizes(layers=12, hidden=256, heads=4, feed_forward=1024) | options))


def _sizes(layers: int, hidden: int, heads: int, feed_forward: int) -> dict[str, int]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": feed_forward,
    }
