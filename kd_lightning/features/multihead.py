"""Features of `torch.nn.MultiheadAttention`, from what it was called with.

The module's own `need_weights=True` gives the map after dropout and by another kernel; made from its inputs, the map
is before dropout and the module's output stays bit-equal.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.features.hooks import Hook

_ARGUMENTS = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask")


class Call(NamedTuple):
    """One call of an `nn.MultiheadAttention`."""

    module: nn.MultiheadAttention
    arguments: dict[str, Any]


class CallHook(Hook):
    """Pre-hook: notes the arguments of a call."""

    def __call__(self, module: nn.MultiheadAttention, args: Any, kwargs: dict[str, Any]) -> None:
        """Note the arguments."""
        arguments = {**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs}
        self.record.note(self.address, Call(module, arguments))


def multihead_feature(call: Call, kind: str) -> Tensor:
    """Return the query, key or value (B, H, L, D), or the scores or attention map (B, H, L, L), of a call."""
    if kind in ("query", "key", "value"):
        return _project(call, ("query", "key", "value").index(kind))
    query, key = _project(call, 0), _project(call, 1)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if kind == "scores":
        return scores
    return _mask(scores, call.arguments).softmax(-1)


def _project(call: Call, part: int) -> Tensor:
    module, name = call.module, ("query", "key", "value")[part]
    if module._qkv_same_embed_dim:
        weight = module.in_proj_weight.chunk(3)[part]
    else:
        weight = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)[part]
    bias = None if module.in_proj_bias is None else module.in_proj_bias.chunk(3)[part]
    heads = F.linear(call.arguments[name], weight, bias).unflatten(-1, (module.num_heads, module.head_dim))
    return heads.transpose(-2, -3)


def _mask(scores: Tensor, arguments: dict[str, Any]) -> Tensor:
    padding, mask = arguments.get("key_padding_mask"), arguments.get("attn_mask")
    if padding is not None:
        scores = _apply(scores, padding[:, None, None, :])
    if mask is not None:
        scores = _apply(scores, mask.unflatten(0, (-1, scores.shape[1])) if mask.dim() == 3 else mask)
    return scores


def _apply(scores: Tensor, mask: Tensor) -> Tensor:
    # Here True means "do not attend", the opposite of scaled_dot_product_attention.
    if mask.dtype is torch.bool:
        return scores.masked_fill(mask, float("-inf"))
    return scores + mask
