"""ResNet-50 for images of CIFAR's size: bottleneck blocks (He et al. 2016) behind a stem that keeps their size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from kd_lightning.models.cifar.network import (
    CifarNetwork,
    Stage,
    channels_of,
    conv,
    conv_norm_relu,
    init_weights,
    scaled,
)
from kd_lightning.models.cifar.preactivation import Preactivation
from kd_lightning.models.cifar.resnet import shortcut

_WIDTHS = (64, 64, 128, 256, 512)
"""Channels of the stem, and inside the blocks of the four stages."""

_EXPANSION = 4
"""How many times wider a block's output is."""


class BottleneckResNet(CifarNetwork):
    """A stem of one 3×3 convolution, four stages of bottleneck blocks, mean pooling, and a linear head.

    Addresses: `stem` after its ReLU; `stages.1` to `stages.4`; `stages.k.preact`, what goes into the last ReLU of a
    stage; `pool` (B, D); `head`.

    Args:
        blocks: blocks of each stage.
        widths: channels of the stem, and inside the blocks of each stage, whose outputs have four times as many.
        num_labels: number of classes.
        num_channels: channels of the images.
    """

    def __init__(
        self,
        blocks: Sequence[int] = (3, 4, 6, 3),
        widths: Sequence[int] = _WIDTHS,
        num_labels: int = 10,
        num_channels: int = 3,
    ) -> None:
        stem = conv_norm_relu(num_channels, widths[0])
        stages, width = [], widths[0]
        for count, inner, stride in zip(blocks, widths[1:], (1, 2, 2, 2), strict=True):
            out = _EXPANSION * inner
            stages.append(
                Stage([_Bottleneck(width, inner, stride), *(_Bottleneck(out, inner) for _ in range(count - 1))])
            )
            width = out
        super().__init__(stem, stages, width, num_labels, num_channels)
        init_weights(self)


class _Bottleneck(nn.Module):
    """A 3×3 convolution between two 1×1 ones, beside a shortcut."""

    def __init__(self, width: int, inner: int, stride: int = 1) -> None:
        super().__init__()
        out = _EXPANSION * inner
        self.conv1, self.norm1, self.relu1 = conv(width, inner, 1), nn.BatchNorm2d(inner), nn.ReLU()
        self.conv2, self.norm2, self.relu2 = conv(inner, inner, stride=stride), nn.BatchNorm2d(inner), nn.ReLU()
        self.conv3, self.norm3 = conv(inner, out, 1), nn.BatchNorm2d(out)
        self.shortcut = shortcut(width, out, stride)
        self.preact, self.relu3 = Preactivation(self.norm3), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu1(self.norm1(self.conv1(x)))
        inner = self.relu2(self.norm2(self.conv2(inner)))
        return self.relu3(self.preact(self.norm3(self.conv3(inner)) + self.shortcut(x)))


def cifar_resnet50(width: float = 1, num_labels: int = 10, **options: Any) -> nn.Module:
    """Build ResNet-50 for images of CIFAR's size (23.7 M), the teacher of MobileNetV2 in papers on distillation.

    Args:
        width: factor of the published channels.
        num_labels: number of classes.
        options: `num_channels` of the images; the others that every builder is called with are unused.

    Raises:
        ConfigError: for a width that leaves no channels.

    Example:
        >>> import torch
        >>> with torch.device("meta"):
        ...     sum(p.numel() for p in cifar_resnet50(num_labels=100).parameters())
        23705252

    """
    return BottleneckResNet(widths=scaled(_WIDTHS, width), num_labels=num_labels, num_channels=channels_of(**options))
