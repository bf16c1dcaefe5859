"""Attention maps and scores from what a kernel was called with, made outside the model's forward pass.

Made inside, they would be saved for backward where a recomputing pass does not make them again, and gradient
checkpointing refuses that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kd_lightning.core.errors import AddressError
from kd_lightning.features.interface import Noted


def attention_map(noted: Noted, eager: Callable[..., Any]) -> Tensor:
    """Return the probabilities (B, H, L, L) as the module's own plain attention makes them, before dropout."""
    options = {**noted.options, "dropout": 0.0}
    mask = additive_mask(noted)
    return eager(noted.module, noted.query, noted.key, noted.value[..., :1], mask, **options)[1]


def attention_scores(noted: Noted) -> Tensor:
    """Return what the softmax is taken of, (B, H, L, L): scaled, with softcap and position bias, mask left out."""
    query, key = noted.query, noted.key
    if key.shape[1] != query.shape[1]:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scaling = noted.options.get("scaling")
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    softcap = noted.options.get("softcap")
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    bias = noted.options.get("position_bias")
    return scores if bias is None else scores + bias


def additive_mask(noted: Noted) -> Tensor | None:
    """Return the mask as plain attention adds it, whatever form the fast kernel was given it in."""
    mask = noted.mask
    if noted.kernel == "eager" or (isinstance(mask, Tensor) and mask.dim() == 4 and mask.dtype.is_floating_point):
        return mask
    if mask is not None and not isinstance(mask, Tensor):
        raise AddressError(
            f"The attention map cannot be made under the '{noted.kernel}' kernel, whose mask is a "
            f"{type(mask).__name__}; load the model with attn_implementation='sdpa'."
        )
    sees = mask.bool() if mask is not None and mask.dim() == 4 else _sees(noted)
    if sees is None:
        return None
    lowest = torch.finfo(noted.query.dtype).min
    return torch.zeros_like(sees, dtype=noted.query.dtype).masked_fill(~sees, lowest)


def _sees(noted: Noted) -> Tensor | None:
    """Return who sees whom where the kernel was told so by flags: causal, a window, padding as (B, L)."""
    rows, columns = noted.query.shape[-2], noted.key.shape[-2]
    device = noted.query.device
    flag = noted.options.get("is_causal")
    causal = (getattr(noted.module, "is_causal", True) if flag is None else flag) and rows > 1
    window = noted.options.get("sliding_window") if "flash" in noted.kernel else None
    sees = noted.mask.bool()[:, None, None, :] if noted.mask is not None else None
    if causal or window is not None:
        distance = torch.arange(rows, device=device)[:, None] - torch.arange(columns, device=device)
        near = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
        near = near if window is None else near & (distance.abs() < window)
        sees = near[None, None] if sees is None else sees & near
    return sees
