"""VGG networks with batch norm for images of CIFAR's size (Simonyan & Zisserman 2015): one linear layer at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from kd_lightning.core.errors import ConfigError
from kd_lightning.models.cifar.network import CifarNetwork, Stage, channels_of, init_weights, scaled
from kd_lightning.models.cifar.preactivation import Preactivation

_WIDTHS = (64, 128, 256, 512, 512)
"""Channels of the stem and of the four stages."""

_LAYERS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions of the stem and of the four stages, by depth."""


class VGG(CifarNetwork):
    """Five groups of 3×3 convolutions, of which the first is the stem; mean pooling, and a linear head.

    Three max poolings halve height and width, at the beginning of stages 1 to 3: maps of a 32×32 image are 32, 16, 8, 4
    and 4 wide.

    Addresses: `stem` after its last ReLU; `stages.1` to `stages.4`; `stages.k.preact`, the last batch norm of a stage;
    `pool` (B, D); `head`.

    Args:
        layers: convolutions of the stem and of the four stages.
        widths: their channels.
        num_labels: number of classes.
        num_channels: channels of the images.
    """

    def __init__(
        self,
        layers: Sequence[int] = _LAYERS[8],
        widths: Sequence[int] = _WIDTHS,
        num_labels: int = 10,
        num_channels: int = 3,
    ) -> None:
        sizes = zip(layers, [num_channels, *widths[:-1]], widths, strict=True)
        stem, *stages = ([_Layer(size, out), *(_Layer(out, out) for _ in range(n - 1))] for n, size, out in sizes)
        last = len(stages)
        pools = [[nn.MaxPool2d(2)] if k < last else [] for k in range(1, last + 1)]
        rows = [Stage([*pool, *row]) for pool, row in zip(pools, stages, strict=True)]
        super().__init__(nn.Sequential(*stem), rows, widths[-1], num_labels, num_channels)
        init_weights(self, head=0.01)


class _Layer(nn.Module):
    """A convolution with a bias, a batch norm and a ReLU."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(width, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()
        self.preact = Preactivation(self.norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.preact(self.norm(self.conv(x))))


def vgg(depth: int, width: float = 1, num_labels: int = 10, **options: Any) -> nn.Module:
    """Build a VGG network with batch norm for images of CIFAR's size.

    Args:
        depth: 8, 11, 13, 16 or 19.
        width: factor of the published channels.
        num_labels: number of classes.
        options: `num_channels` of the images; the others that every builder is called with are unused.

    Raises:
        ConfigError: for another depth, or a width that leaves no channels.

    Example:
        >>> sum(p.numel() for p in vgg(8, num_labels=100).parameters())
        3965028

    """
    if depth not in _LAYERS:
        raise ConfigError(f"Expected argument `depth` to be one of {', '.join(map(str, _LAYERS))} but got {depth}.")
    return VGG(_LAYERS[depth], scaled(_WIDTHS, width), num_labels, channels_of(**options))
