"""What a model computes with, as a hash."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.core.hashing import digest

NOT_SHAPING = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "_attn_implementation", "architectures"}
"""Entries of a Transformers configuration that do not change what a model computes."""


@torch.no_grad()
def weights_hash(model: nn.Module) -> str:
    """Return a hash of what a model computes with: structure, configuration, every parameter and buffer.

    Example:
        >>> one = nn.Linear(2, 2)
        >>> other = nn.Linear(2, 2)
        >>> weights_hash(one) == weights_hash(one), weights_hash(one) == weights_hash(other)
        (True, False)

    """
    config: Any = getattr(model, "config", None)
    settings = config.to_dict() if hasattr(config, "to_dict") else {}
    shaping = {key: value for key, value in settings.items() if key not in NOT_SHAPING}
    total = hashlib.sha256(digest(repr(model), shaping).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, Tensor):
            total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]
