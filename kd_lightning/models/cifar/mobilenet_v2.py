"""MobileNetV2 for images of CIFAR's size (Sandler et al. 2018): blocks that are wide inside and narrow between."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kd_lightning.core.errors import ConfigError
from kd_lightning.models.cifar.network import CifarNetwork, Stage, channels_of, conv, conv_norm_relu, init_weights
from kd_lightning.models.cifar.preactivation import Preactivation

_STAGES = (
    ((1, 16, 1, 1), (None, 24, 2, 1)),
    ((None, 32, 3, 2),),
    ((None, 64, 4, 2), (None, 96, 3, 1)),
    ((None, 160, 3, 2), (None, 320, 1, 1)),
)
"""Rows of the paper's table 2, by stage: expansion (None: the network's), channels, blocks, stride of the first."""

_LAST = 1280
"""Channels of the convolution behind the stages, at any width up to 1."""


class MobileNetV2(CifarNetwork):
    """A stem, four stages of inverted residual blocks, a 1×1 convolution, mean pooling, and a linear head.

    The strides are those for 32×32 pixels: maps of such images are 16, 16, 8, 4 and 2 wide.

    Addresses: `stem` after its ReLU; `stages.1` to `stages.4`, whose blocks end in a batch norm without a ReLU, so that
    `stages.k.preact` is what `stages.k` is; `tail`, the convolution behind them after its ReLU; `pool` (B, D); `head`.

    Args:
        width: factor of the published channels; fractions are dropped.
        expansion: how many times wider blocks are inside (the T of papers on distillation).
        num_labels: number of classes.
        num_channels: channels of the images.
    """

    def __init__(self, width: float = 0.5, expansion: int = 6, num_labels: int = 10, num_channels: int = 3) -> None:
        size = int(32 * width)
        stem, stages = conv_norm_relu(num_channels, size, stride=2), []
        for rows in _STAGES:
            blocks = []
            for factor, channels, count, stride in rows:
                for k in range(count):
                    out = int(channels * width)
                    blocks.append(_Block(size, out, stride if k == 0 else 1, factor or expansion))
                    size = out
            stages.append(Stage(blocks))
        last = int(_LAST * max(1, width))
        super().__init__(stem, stages, last, num_labels, num_channels, tail=conv_norm_relu(size, last, 1))
        init_weights(self, head=0.01)


class _Block(nn.Module):
    """A 1×1 convolution that widens, a 3×3 one of each channel, and a 1×1 one that narrows, without a ReLU."""

    def __init__(self, width: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width * expansion
        self.conv1, self.norm1, self.relu1 = conv(width, inner, 1), nn.BatchNorm2d(inner), nn.ReLU()
        self.conv2, self.norm2, self.relu2 = conv(inner, inner, 3, stride, inner), nn.BatchNorm2d(inner), nn.ReLU()
        self.conv3, self.norm3 = conv(inner, out, 1), nn.BatchNorm2d(out)
        self.adds = stride == 1 and width == out
        self.preact = Preactivation(self.norm3)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu1(self.norm1(self.conv1(x)))
        inner = self.norm3(self.conv3(self.relu2(self.norm2(self.conv2(inner)))))
        return self.preact(inner + x if self.adds else inner)


def mobilenet_v2(width: float = 0.5, num_labels: int = 10, *, expansion: int = 6, **options: Any) -> nn.Module:
    """Build MobileNetV2 for images of CIFAR's size; by default the half as wide one of papers on distillation (0.8 M).

    As in their code (Tian et al. 2020), ReLU has no upper bound and the first block widens by a convolution, too.

    Args:
        width: factor of the published channels; 1280 channels are pooled at any width up to 1.
        num_labels: number of classes.
        expansion: how many times wider blocks are inside.
        options: `num_channels` of the images; the others that every builder is called with are unused.

    Raises:
        ConfigError: for a width that leaves no channels, or an expansion below 1.

    Example:
        >>> sum(p.numel() for p in mobilenet_v2(num_labels=100).parameters())
        812836

    """
    if int(16 * width) < 1 or expansion < 1:
        raise ConfigError(
            f"Expected a `width` of at least 1/16 and an `expansion` of at least 1, but got {width}, {expansion}."
        )
    return MobileNetV2(width, expansion, num_labels, channels_of(**options))
