"""How long rows may be: models with a table of positions know no later ones."""

from __future__ import annotations

from typing import Any

from torch import nn

from kd_lightning.core.errors import ConfigError


def positions(model: nn.Module) -> int | None:
    """Return how many tokens a model can number; None where it has no table of positions.

    RoBERTa and its like number tokens from behind the padding's id; the entries up to there stay unused.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> small = dict(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4)
        >>> positions(BertModel(BertConfig(**small, max_position_embeddings=40)))
        40

    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[-1] == "position_embeddings":
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return None


def missing_positions(model: nn.Module, data: Any) -> int:
    """Return for how many tokens of the longest rows there may be a model has no position."""
    longest, known = data.max_length, positions(model)
    return max(0, longest - known) if longest is not None and known is not None else 0


def check_positions(model: nn.Module, data: Any, role: str) -> None:
    """Refuse rows that are longer than a model reads, before one of them comes up in training.

    Args:
        model: teacher or student.
        data: the data module, whose `max_length` counts.
        role: what to call the model.

    Raises:
        ConfigError: with how long rows may be.

    """
    if missing_positions(model, data):
        known = positions(model)
        raise ConfigError(
            f"Rows may have {data.max_length} tokens (data.max_length), but the {role} reads {known} at most. "
            f"Type data.max_length={known}, or choose another {role}."
        )
