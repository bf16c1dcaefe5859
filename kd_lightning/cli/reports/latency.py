"""How long a model takes for one input."""

from __future__ import annotations

import logging
import time

import torch
from torch import nn

log = logging.getLogger(__name__)


@torch.no_grad()
def latency_ms(model: nn.Module, length: int = 128, repeats: int = 20) -> float | None:
    """Return the milliseconds of a forward pass, batch 1, on the device where the model is; the least of several.

    The least, because other work on the machine only ever adds. A model that does not take such an input has no
    latency here: a figure beside the result must not lose the result.

    Args:
        model: a model that takes `input_ids` and `attention_mask`.
        length: tokens of the input, or as many as the model has positions for.
        repeats: timed passes after two untimed ones.

    Returns:
        Milliseconds, or None where the model cannot be called so.

    """
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None) or length
    ids = torch.ones(1, min(length, positions), dtype=torch.long, device=next(model.parameters()).device)
    was_training = model.training
    model.eval()
    try:
        times = [_timed(model, ids) for _ in range(repeats + 2)][2:]
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        log.warning("No latency for %s: %s", type(model).__name__, error)
        return None
    finally:
        model.train(was_training)
    return round(1000 * min(times), 3)


def _timed(model: nn.Module, ids: torch.Tensor) -> float:
    start = time.perf_counter()
    model(input_ids=ids, attention_mask=torch.ones_like(ids))
    if ids.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start
