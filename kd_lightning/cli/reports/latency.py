"""How long a model takes for one input."""

from __future__ import annotations

import logging

import torch
from torch import nn

from kd_lightning.models.inspection.timing import forward_ms

log = logging.getLogger(__name__)


def latency_ms(model: nn.Module, length: int = 128, repeats: int = 20) -> float | None:
    """Return the milliseconds of a forward pass, batch 1, on the device where the model is; the least of several.

    A model that does not take such an input has no latency here: a figure beside the result must not lose the result.

    Args:
        model: a model that takes `input_ids` and `attention_mask`.
        length: tokens of the input, or as many as the model has positions for.
        repeats: timed passes after two untimed ones.

    Returns:
        Milliseconds, or None where the model cannot be called so.

    """
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None) or length
    ids = torch.ones(1, min(length, positions), dtype=torch.long, device=next(model.parameters()).device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    try:
        return round(forward_ms(model, ((), inputs), repeats), 3)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        log.warning("No latency for %s: %s", type(model).__name__, error)
        return None
