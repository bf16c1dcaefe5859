"""ShuffleNet for images of CIFAR's size (Zhang et al. 2018): 1×1 convolutions in groups, with a shuffle between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.core.errors import ConfigError
from kd_lightning.models.cifar.network import CifarNetwork, Stage, channels_of, conv, conv_norm_relu, scaled
from kd_lightning.models.cifar.preactivation import Preactivation

_WIDTHS, _GROUPS = (240, 480, 960), 3
"""The paper's table 1: channels of the three stages for three groups."""

STEM = 24
"""Channels of the stem."""


class ShuffleNetV1(CifarNetwork):
    """A stem of one 1×1 convolution, three stages of shuffling blocks, mean pooling, and a linear head.

    Maps of a 32×32 image are 32, 16, 8 and 4 wide.

    Addresses: `stem` after its ReLU; `stages.1` to `stages.3`; `stages.k.preact`, what goes into the last ReLU of a
    stage; `pool` (B, D); `head`.

    Args:
        blocks: blocks of each stage, of which the first halves height and width.
        widths: channels of each stage.
        groups: of the 1×1 convolutions.
        num_labels: number of classes.
        num_channels: channels of the images.
    """

    def __init__(
        self,
        blocks: Sequence[int] = (4, 8, 4),
        widths: Sequence[int] = _WIDTHS,
        groups: int = _GROUPS,
        num_labels: int = 10,
        num_channels: int = 3,
    ) -> None:
        stem = conv_norm_relu(num_channels, STEM, 1)
        stages: list[Stage] = []
        for count, width, out in zip(blocks, [STEM, *widths[:-1]], widths, strict=True):
            first = _Block(width, out - width, groups, stride=2, ungrouped=not stages)
            stages.append(Stage([first, *(_Block(out, out, groups) for _ in range(count - 1))]))
        super().__init__(stem, stages, widths[-1], num_labels, num_channels)


class _Block(nn.Module):
    """Convolutions in groups with a shuffle between, added to a shortcut, or beside a smaller image of the input.

    Args:
        width: channels it takes.
        out: channels that its convolutions give.
        groups: of the 1×1 convolutions.
        stride: with 2 the input is averaged, and stands behind what the convolutions give.
        ungrouped: the first convolution has no groups, because there are few channels.
    """

    def __init__(self, width: int, out: int, groups: int, stride: int = 1, ungrouped: bool = False) -> None:
        super().__init__()
        inner, first = out // 4, 1 if ungrouped else groups
        self.conv1, self.norm1, self.relu1 = conv(width, inner, 1, groups=first), nn.BatchNorm2d(inner), nn.ReLU()
        self.shuffle = Shuffle(first)
        self.conv2, self.norm2, self.relu2 = conv(inner, inner, 3, stride, inner), nn.BatchNorm2d(inner), nn.ReLU()
        self.conv3, self.norm3 = conv(inner, out, 1, groups=groups), nn.BatchNorm2d(out)
        self.shortcut = nn.AvgPool2d(3, 2, padding=1) if stride == 2 else None
        self.preact, self.relu3 = Preactivation(self.norm3 if stride == 1 else None), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu1(self.norm1(self.conv1(x)))
        inner = self.relu2(self.norm2(self.conv2(self.shuffle(inner))))
        inner = self.norm3(self.conv3(inner))
        joined = inner + x if self.shortcut is None else torch.cat([inner, self.shortcut(x)], dim=1)
        return self.relu3(self.preact(joined))


class Shuffle(nn.Module):
    """Orders channels so that each group gets some of every group: 1 2 3 4 of two groups become 1 3 2 4.

    Args:
        groups: how many there are.

    Example:
        >>> Shuffle(2)(torch.tensor([1, 2, 3, 4]).reshape(1, 4, 1, 1)).flatten().tolist()
        [1, 3, 2, 4]

    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Return maps of the same shape."""
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


def shufflenet_v1(width: float = 1, num_labels: int = 10, **options: Any) -> nn.Module:
    """Build ShuffleNet 1× with three groups for images of CIFAR's size (0.9 M).

    As in the code of papers on distillation (Tian et al. 2020), the stem is a 1×1 convolution that keeps the size of
    the image, and a ReLU follows the 3×3 convolutions, too.

    Args:
        width: factor of the stages' 240, 480 and 960 channels; the stem has 24.
        num_labels: number of classes.
        options: `num_channels` of the images; the others that every builder is called with are unused.

    Raises:
        ConfigError: for a width whose channels make no groups.

    Example:
        >>> sum(p.numel() for p in shufflenet_v1(num_labels=100).parameters())
        949258

    """
    widths = scaled(_WIDTHS, width)
    added = [out - size for size, out in zip([STEM, *widths[:-1]], widths, strict=True)]
    if min(added) < 1 or any(size % (4 * _GROUPS) for size in (*widths, *added)):
        raise ConfigError(
            f"Expected argument `width` to give stages of more than {STEM} channels that {4 * _GROUPS} divides, but "
            f"{width} gives {widths}. Such are 0.2, 0.5, 1, 1.5 and 2."
        )
    return ShuffleNetV1(widths=widths, num_labels=num_labels, num_channels=channels_of(**options))
