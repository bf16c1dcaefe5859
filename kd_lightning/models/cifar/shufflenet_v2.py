"""ShuffleNet V2 for images of CIFAR's size (Ma et al. 2018): blocks that leave half of the channels as they are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.core.errors import ConfigError
from kd_lightning.models.cifar.network import CifarNetwork, Stage, channels_of, conv, conv_norm_relu
from kd_lightning.models.cifar.preactivation import Preactivation
from kd_lightning.models.cifar.shufflenet_v1 import STEM, Shuffle

_WIDTHS = {
    0.5: (48, 96, 192, 1024),
    1: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2: (244, 488, 976, 2048),
}
"""The paper's table 5: channels of the three stages and of the convolution behind them."""


class ShuffleNetV2(CifarNetwork):
    """A stem of one 1×1 convolution, three stages of splitting blocks, a 1×1 convolution, mean pooling, and a head.

    Maps of a 32×32 image are 32, 16, 8 and 4 wide.

    Addresses: `stem` after its ReLU; `stages.1` to `stages.3`, after the last shuffle; `stages.k.preact`, what goes
    into the last ReLU of a stage, before the shuffle: the half of the channels that was left as it is, which a ReLU
    does not change any more, and then a batch norm's (so that its `norm` is None); `tail`, the convolution behind the
    stages after its ReLU; `pool` (B, D); `head`.

    Args:
        blocks: blocks of each stage, of which the first halves height and width.
        widths: channels of each stage, even numbers, and of the convolution behind them.
        num_labels: number of classes.
        num_channels: channels of the images.
    """

    def __init__(
        self,
        blocks: Sequence[int] = (4, 8, 4),
        widths: Sequence[int] = _WIDTHS[1],
        num_labels: int = 10,
        num_channels: int = 3,
    ) -> None:
        *widths, last = widths
        stem = conv_norm_relu(num_channels, STEM, 1)
        sizes = zip(blocks, [STEM, *widths[:-1]], widths, strict=True)
        stages = [
            Stage([_Block(width, out, stride=2), *(_Block(out, out) for _ in range(count - 1))])
            for count, width, out in sizes
        ]
        tail = conv_norm_relu(widths[-1], last, 1)
        super().__init__(stem, stages, last, num_labels, num_channels, tail)


class _Block(nn.Module):
    """Convolutions of half of the channels, or of stride 2 and of all; beside them the others, or a second branch."""

    def __init__(self, width: int, out: int, stride: int = 1) -> None:
        super().__init__()
        half = out // 2
        taken = width if stride == 2 else half
        branch = {
            "conv1": conv(taken, half, 1), "norm1": nn.BatchNorm2d(half), "relu": nn.ReLU(),
            "conv2": conv(half, half, 3, stride, half), "norm2": nn.BatchNorm2d(half),
            "conv3": conv(half, half, 1), "norm3": nn.BatchNorm2d(half),
        }  # fmt: skip
        shortcut = {
            "conv1": conv(width, width, 3, stride, width), "norm1": nn.BatchNorm2d(width),
            "conv2": conv(width, half, 1), "norm2": nn.BatchNorm2d(half),
        }  # fmt: skip
        self.shortcut = nn.Sequential(OrderedDict(shortcut)) if stride == 2 else None
        self.branch = nn.Sequential(OrderedDict(branch))
        self.preact, self.relu, self.shuffle = Preactivation(), nn.ReLU(), Shuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        beside, x = x.chunk(2, dim=1) if self.shortcut is None else (self.shortcut(x), x)
        return self.shuffle(self.relu(self.preact(torch.cat([beside, self.branch(x)], dim=1))))


def shufflenet_v2(width: float = 1, num_labels: int = 10, **options: Any) -> nn.Module:
    """Build ShuffleNet V2 for images of CIFAR's size; by default 1× (1.4 M).

    As in the code of papers on distillation (Tian et al. 2020), the stem is a 1×1 convolution that keeps the size of
    the image.

    Args:
        width: 0.5, 1, 1.5 or 2, for the paper's channels.
        num_labels: number of classes.
        options: `num_channels` of the images; the others that every builder is called with are unused.

    Raises:
        ConfigError: for another width.

    Example:
        >>> sum(p.numel() for p in shufflenet_v2(num_labels=100).parameters())
        1355528

    """
    if width not in _WIDTHS:
        raise ConfigError(f"Expected argument `width` to be one of {', '.join(map(str, _WIDTHS))} but got {width}.")
    return ShuffleNetV2(widths=_WIDTHS[width], num_labels=num_labels, num_channels=channels_of(**options))
