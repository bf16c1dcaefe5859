"""Weights by a formula, so that a network written elsewhere can be given the same ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def set_weights(model: nn.Module) -> nn.Module:
    """Give every tensor of a state dict values that follow from its place, in float64; return the model in eval mode.

    The k-th tensor is sin(k + 1.7 n) for its n-th element: of weights with two axes and more scaled to keep the size of
    what they take, of batch norms' weights and variances around 1, of other vectors small.
    """
    model.double().eval()
    tensors = [(name, tensor) for name, tensor in model.state_dict().items() if tensor.is_floating_point()]
    for k, (name, tensor) in enumerate(tensors):
        wave = torch.sin(k + 1.7 * torch.arange(tensor.numel(), dtype=torch.float64)).reshape(tensor.shape)
        if tensor.dim() > 1:
            values = 2 * wave / math.sqrt(tensor[0].numel())
        else:
            values = 1 + 0.3 * wave if name.endswith(("weight", "running_var")) else 0.2 * wave
        tensor.copy_(values)
    return model


def images(size: int = 32) -> Tensor:
    """Return two images (2, 3, size, size)."""
    return torch.cos(0.9 * torch.arange(6 * size * size, dtype=torch.float64) ** 1.1).reshape(2, 3, size, size)
