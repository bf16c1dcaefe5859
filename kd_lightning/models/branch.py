"""The classifier behind one layer of a model from which rows may leave early."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from kd_lightning.core.errors import ConfigError
from kd_lightning.functional.masking import blank

Pool = Literal["first", "mean", "max"]
"""How tokens become one vector: the first one, or the mean or maximum over all that are no padding."""

HEADS = 2
"""Attention heads of a branch."""


class Branch(nn.Module):
    """A narrower width, self-attention over the tokens, pooling, and two linear layers.

    FastBERT, Liu et al. 2020 (2004.02178), section 3.1. Padding is neither attended to nor pooled, and a mean is over
    tokens; the authors' code takes it over features.

    Args:
        hidden_size: D, of the layer.
        num_labels: C.
        width: of the branch, which `HEADS` divides.
        pool: how tokens become one vector.

    Raises:
        ConfigError: for a width or a pooling that cannot be.

    Example:
        >>> Branch(hidden_size=6, num_labels=3, width=4)(torch.zeros(2, 5, 6)).shape
        torch.Size([2, 3])

    """

    def __init__(self, hidden_size: int, num_labels: int, width: int = 128, pool: Pool = "first") -> None:
        super().__init__()
        check_branch(width, pool)
        self.narrow, self.dense = nn.Linear(hidden_size, width), nn.Linear(width, width)
        self.attention, self.attended = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.classifier = nn.Linear(width, num_labels)
        self.pool = pool

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return logits (B, C) of hidden states (B, L, D) under a mask (B, L)."""
        real = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device) if mask is None else mask.bool()
        x = torch.tanh(self.narrow(hidden))
        x = self._attended(x, real)
        return self.classifier(torch.tanh(self.dense(self._pooled(x, real))))

    def _attended(self, x: Tensor, real: Tensor) -> Tensor:
        query, key, value = self.attention(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        bias = torch.zeros(real.shape, dtype=x.dtype, device=x.device)
        bias = bias.masked_fill(~real, torch.finfo(x.dtype).min)[:, None, None]  # not -inf: a row may be all padding
        return self.attended(scaled_dot_product_attention(query, key, value, bias).transpose(1, 2).flatten(2))

    def _pooled(self, x: Tensor, real: Tensor) -> Tensor:
        if self.pool == "first":
            return x[:, 0]
        if self.pool == "mean":
            return blank(x, real).sum(1) / real.sum(1, keepdim=True).clamp(min=1)
        return blank(x, real, torch.finfo(x.dtype).min).amax(1)


def check_branch(width: Any, pool: Any) -> None:
    """Raise an error where there can be no such branch.

    Raises:
        ConfigError: for a width that `HEADS` does not divide, or an unknown pooling.

    """
    if not isinstance(width, int) or width < 1 or width % HEADS:
        raise ConfigError(f"'exit_width' is a whole number that {HEADS} divides, and cannot be {width!r}.")
    if pool not in get_args(Pool):
        raise ConfigError(f"'exit_pool' cannot be {pool!r}: choose first, mean or max.")
