"""Attention maps and scores from recorded calls, computed after the model's forward pass.

Computed inside, they would be saved for backward where a recomputing pass does not make them again, and gradient
checkpointing refuses that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.core.errors import AddressError
from kd_lightning.features.attention import KernelCall, MultiheadCall


def attention_map(call: KernelCall, eager: Callable[..., Any]) -> Tensor:
    """Return the probabilities (B, H, L, L) as the module's own plain attention makes them, before dropout."""
    options = {**call.options, "dropout": 0.0}
    return eager(call.module, call.query, call.key, call.value[..., :1], additive_mask(call), **options)[1]


def attention_scores(call: KernelCall) -> Tensor:
    """Return what the softmax is taken of, (B, H, L, L): scaled, with softcap and position bias, mask left out."""
    query, key = call.query, call.key
    if key.shape[1] != query.shape[1]:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scaling = call.options.get("scaling")
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    softcap = call.options.get("softcap")
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    bias = call.options.get("position_bias")
    return scores if bias is None else scores + bias


def additive_mask(call: KernelCall) -> Tensor | None:
    """Return the mask as plain attention adds it, whatever form the fast kernel received it in.

    Raises:
        AddressError: if the kernel's mask is no tensor.

    """
    mask = call.mask
    if call.kernel == "eager" or (isinstance(mask, Tensor) and mask.dim() == 4 and mask.dtype.is_floating_point):
        return mask
    if mask is not None and not isinstance(mask, Tensor):
        raise AddressError(
            f"The attention map cannot be made under the '{call.kernel}' kernel, whose mask is a "
            f"{type(mask).__name__}; load the model with attn_implementation='sdpa'."
        )
    allowed = mask.bool() if mask is not None and mask.dim() == 4 else _allowed_pairs(call)
    if allowed is None:
        return None
    lowest = torch.finfo(call.query.dtype).min
    return torch.zeros_like(allowed, dtype=call.query.dtype).masked_fill(~allowed, lowest)


def _allowed_pairs(call: KernelCall) -> Tensor | None:
    """Return which token may attend to which, where the kernel has flags for it: causal, a window, padding (B, L)."""
    rows, columns, device = call.query.shape[-2], call.key.shape[-2], call.query.device
    flag = call.options.get("is_causal")
    causal = (getattr(call.module, "is_causal", True) if flag is None else flag) and rows > 1
    window = call.options.get("sliding_window") if "flash" in call.kernel else None
    allowed = call.mask.bool()[:, None, None, :] if call.mask is not None else None
    if causal or window is not None:
        distance = torch.arange(rows, device=device)[:, None] - torch.arange(columns, device=device)
        near = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
        near = near if window is None else near & (distance.abs() < window)
        allowed = near[None, None] if allowed is None else allowed & near
    return allowed


def multihead_feature(call: MultiheadCall, kind: str) -> Tensor:
    """Return the query, key or value (B, H, L, D), or the scores or attention map (B, H, L, L), of a call."""
    if kind in ("query", "key", "value"):
        return _project(call, ("query", "key", "value").index(kind))
    query, key = _project(call, 0), _project(call, 1)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if kind == "scores":
        return scores
    padding, mask = call.arguments.get("key_padding_mask"), call.arguments.get("attn_mask")
    if padding is not None:
        scores = _apply(scores, padding[:, None, None, :])
    if mask is not None:
        scores = _apply(scores, mask.unflatten(0, (-1, scores.shape[1])) if mask.dim() == 3 else mask)
    return scores.softmax(-1)


def _project(call: MultiheadCall, part: int) -> Tensor:
    module, name = call.module, ("query", "key", "value")[part]
    if module._qkv_same_embed_dim:
        weight = module.in_proj_weight.chunk(3)[part]
    else:
        weight = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)[part]
    bias = None if module.in_proj_bias is None else module.in_proj_bias.chunk(3)[part]
    heads = F.linear(call.arguments[name], weight, bias).unflatten(-1, (module.num_heads, module.head_dim))
    return heads.transpose(-2, -3)


def _apply(scores: Tensor, mask: Tensor) -> Tensor:
    # Here True means "do not attend", the opposite of scaled_dot_product_attention.
    return scores.masked_fill(mask, float("-inf")) if mask.dtype is torch.bool else scores + mask
