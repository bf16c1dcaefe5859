"""One bidirectional GRU layer that reads the unmasked tokens only, without leaving the device or packing."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BiGRULayer(nn.Module):
    """Two GRUs, one reading each way, and a linear map from both states back to the width.

    `pack_padded_sequence` would need the lengths on the CPU, right padding, and a graph without compilation or ONNX.
    Here the kept tokens are moved to the front in each direction's reading order; what follows them cannot reach back.

    Args:
        width: D, of input, of each direction's state and of the output.

    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rightward = nn.GRU(width, width, batch_first=True)
        self.leftward = nn.GRU(width, width, batch_first=True)
        self.merge = nn.Linear(2 * width, width)

    def forward(self, states: Tensor, keep: Tensor) -> Tensor:
        """Return (B, L, D), zero where `keep` (B, L, bool) is false."""
        right, left = reading_orders(keep)
        both = torch.cat([_read(self.rightward, states, right), _read(self.leftward, states, left)], dim=-1)
        return self.merge(both).masked_fill(~keep[..., None], 0.0)


def reading_orders(keep: Tensor) -> tuple[Tensor, Tensor]:
    """Return at which step each token is read, rightward and leftward, both (B, L); dropped tokens come last.

    Example:
        >>> right, left = reading_orders(torch.tensor([[False, True, True, True]]))
        >>> right.tolist(), left.tolist()
        ([[3, 0, 1, 2]], [[3, 2, 1, 0]])

    """
    kept_before, kept = keep.long().cumsum(1) - 1, keep.long().sum(1, keepdim=True)
    dropped = kept + (~keep).long().cumsum(1) - 1
    return torch.where(keep, kept_before, dropped), torch.where(keep, kept - 1 - kept_before, dropped)


def _read(gru: nn.GRU, states: Tensor, order: Tensor) -> Tensor:
    """Run `gru` over the tokens in `order`, and put each output back where its token stands."""
    index = order[..., None].expand_as(states)
    ordered = torch.zeros_like(states).scatter(1, index, states)
    return gru(ordered)[0].gather(1, index)
