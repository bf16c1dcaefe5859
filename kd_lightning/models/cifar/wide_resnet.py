"""Wide residual networks (Zagoruyko & Komodakis 2016): blocks that begin with a batch norm and a ReLU."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from kd_lightning.core.errors import ConfigError
from kd_lightning.models.cifar.network import CifarNetwork, Stage, channels_of, conv, init_weights, scaled
from kd_lightning.models.cifar.preactivation import Preactivation

_WIDTHS = (16, 32, 64)
"""Channels of the three stages; the stem has 16."""


class WideResNet(CifarNetwork):
    """A stem of one convolution, three stages of pre-activation blocks, a batch norm and a ReLU, pooling, and a head.

    Addresses: `stem`, a convolution without a ReLU; `stages.1` to `stages.3`, the sums that blocks give, without a
    ReLU; `stages.k.preact`, such a sum after the batch norm that follows it, in the next stage or in `tail`: what goes
    into the next ReLU; `tail`, the last stage after batch norm and ReLU; `pool` (B, D); `head`.

    Args:
        blocks: blocks per stage.
        widths: channels of the stem and of the three stages.
        num_labels: number of classes.
        num_channels: channels of the images.
    """

    def __init__(
        self, blocks: int, widths: Sequence[int] = (16, *_WIDTHS), num_labels: int = 10, num_channels: int = 3
    ) -> None:
        stem = nn.Sequential(OrderedDict(conv=conv(num_channels, widths[0])))
        sizes = zip(widths[:-1], widths[1:], (1, 2, 2), strict=True)
        rows = [[_Block(*size), *(_Block(size[1], size[1], 1) for _ in range(blocks - 1))] for size in sizes]
        tail = _Tail(widths[-1])
        following = [*(row[0].preact for row in rows[1:]), tail.preact]
        stages = [Stage(row, preact) for row, preact in zip(rows, following, strict=True)]
        super().__init__(stem, stages, widths[-1], num_labels, num_channels, tail)
        init_weights(self)
        nn.init.zeros_(self.head.bias)


class _Block(nn.Module):
    """Batch norm, ReLU and a 3×3 convolution, twice, beside a shortcut: a 1×1 convolution where the shape changes."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.relu1 = nn.BatchNorm2d(width), nn.ReLU()
        self.preact = Preactivation(self.norm1)
        self.conv1 = conv(width, out, stride=stride)
        self.norm2, self.relu2, self.conv2 = nn.BatchNorm2d(out), nn.ReLU(), conv(out, out)
        self.shortcut = conv(width, out, 1, stride) if stride > 1 or width != out else None

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu1(self.preact(self.norm1(x)))
        beside = x if self.shortcut is None else self.shortcut(inner)
        return self.conv2(self.relu2(self.norm2(self.conv1(inner)))) + beside


class _Tail(nn.Module):
    """The batch norm and the ReLU behind the last block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(width), nn.ReLU()
        self.preact = Preactivation(self.norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.preact(self.norm(x)))


def wide_resnet(depth: int, width: float = 1, num_labels: int = 10, **options: Any) -> nn.Module:
    """Build WRN-depth-width for images of CIFAR's size, without dropout.

    Args:
        depth: 6n + 4 for n blocks per stage: 10, 16, 22, 28 or 40.
        width: factor of the stages' 16, 32 and 64 channels; the stem has 16.
        num_labels: number of classes.
        options: `num_channels` of the images; the others that every builder is called with are unused.

    Raises:
        ConfigError: for another depth, or a width that leaves no channels.

    Example:
        >>> sum(p.numel() for p in wide_resnet(16, 2, num_labels=100).parameters())
        703284

    """
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        near = [6 * max(blocks, 1) + 4, 6 * max(blocks, 0) + 10]
        raise ConfigError(f"Expected argument `depth` to be 6n + 4 but got {depth}. Closest: {near[0]}, {near[1]}.")
    return WideResNet(blocks, (16, *scaled(_WIDTHS, width)), num_labels, channels_of(**options))
