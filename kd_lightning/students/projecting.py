"""Starting a narrower student from its teacher's embeddings, squeezed to the student's width."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.errors import ConfigError


@torch.no_grad()
def project_embeddings(teacher: nn.Module, student: nn.Module) -> list[str]:
    """Fill a student's embedding tables with its teacher's, projected to the student's width.

    The projection is the one that loses least of the word embeddings' inner products (Eckart and Young 1936: their
    leading principal directions), turned at random so that no coordinate of the student carries more than another,
    which a layer norm would undo. Words, positions and segments share it, so their sums mean what they meant.

    Args:
        teacher: a Transformers model.
        student: one of the same family and vocabulary, no wider than the teacher; changed in place.

    Returns:
        The names of the filled tables.

    Raises:
        ConfigError: if the vocabularies differ, or the student is wider.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> sizes = {"vocab_size": 30, "num_attention_heads": 2, "num_hidden_layers": 1}
        >>> wide, narrow = (BertModel(BertConfig(hidden_size=width, **sizes)) for width in (16, 8))
        >>> len(project_embeddings(wide, narrow))
        3

    """
    words, own = _words(teacher), _words(student)
    if len(words) != len(own) or own.shape[1] > words.shape[1]:
        raise ConfigError(
            f"Projected embeddings need one vocabulary and a student no wider than its teacher, but the tables are "
            f"{list(own.shape)} in the student and {list(words.shape)} in the teacher. Leave embeddings null."
        )
    directions = _directions(words, own.shape[1])
    source, filled = _tables(teacher), []
    for name, table in _tables(student).items():
        origin = source.get(name)
        if origin is not None and origin.shape == (len(table), len(directions)):
            table.copy_(origin.float() @ directions.to(origin.device))
            filled.append(name)
    return filled


def _words(model: nn.Module) -> Tensor:
    getter: Any = getattr(model, "get_input_embeddings", None)
    embeddings = getter() if getter is not None else None
    if not isinstance(embeddings, nn.Embedding):
        raise ConfigError(f"A {type(model).__name__} has no table of word embeddings to project.")
    return embeddings.weight


def _directions(words: Tensor, width: int) -> Tensor:
    """Return the (wide, width) projection."""
    x = words.double()
    _, vectors = torch.linalg.eigh(x.T @ x)  # ascending: the leading directions come last
    turn, _ = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64))
    return (vectors[:, -width:] @ turn).float()


def _tables(model: nn.Module) -> dict[str, Tensor]:
    """Return the embedding tables by path, without the body's own name, so that heads and bare bodies agree."""
    base = f"{getattr(model, 'base_model_prefix', '')}."
    return {path.removeprefix(base): m.weight for path, m in model.named_modules() if isinstance(m, nn.Embedding)}
