"""Residual networks for images of CIFAR's size (He et al. 2016, section 4.2), their modules named for matches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from kd_lightning.core.errors import ConfigError
from kd_lightning.models.cifar.network import CifarNetwork, Stage, conv, conv_norm_relu, init_weights
from kd_lightning.models.cifar.preactivation import Preactivation

_OF_PAPER = (16, 16, 32, 64)
"""Channels of the stem and of the three stages."""


class CifarResNet(CifarNetwork):
    """A stem of one convolution, three stages of residual blocks, mean pooling, and a linear head.

    Addresses: `stem` after its ReLU; `stages.1` to `stages.3`, also `hidden.1` to `hidden.3`; `stages.k.preact`, what
    goes into the last ReLU of a stage; `pool` (B, D); `head`. No ReLU is in place.

    Args:
        blocks: residual blocks per stage.
        widths: channels of the stem and of the three stages.
        num_labels: number of classes.
        num_channels: channels of the images.

    Example:
        >>> import torch
        >>> model = CifarResNet(blocks=1, widths=(4, 4, 8, 16), num_labels=3)
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 3])

    """

    def __init__(
        self, blocks: int, widths: Sequence[int] = _OF_PAPER, num_labels: int = 10, num_channels: int = 3
    ) -> None:
        first, *stages = widths
        stem = conv_norm_relu(num_channels, first)
        sizes = zip(widths[:-1], stages, (1, 2, 2), strict=True)
        rows = [Stage([_Block(*size), *(_Block(size[1], size[1], 1) for _ in range(blocks - 1))]) for size in sizes]
        super().__init__(stem, rows, stages[-1], num_labels, num_channels)
        init_weights(self)


class _Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut: a 1×1 convolution where the shape changes."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1, self.relu1 = conv(width, out, stride=stride), nn.BatchNorm2d(out), nn.ReLU()
        self.conv2, self.norm2 = conv(out, out), nn.BatchNorm2d(out)
        self.shortcut = shortcut(width, out, stride)
        self.preact, self.relu2 = Preactivation(self.norm2), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu1(self.norm1(self.conv1(x)))
        return self.relu2(self.preact(self.norm2(self.conv2(inner)) + self.shortcut(x)))


def shortcut(width: int, out: int, stride: int) -> nn.Sequential:
    """Return what is beside a residual block: nothing, or a 1×1 convolution and a batch norm if the shape changes."""
    changes = stride > 1 or width != out
    return nn.Sequential(*((conv(width, out, 1, stride), nn.BatchNorm2d(out)) if changes else ()))


def cifar_resnet(
    depth: int,
    width: float = 1,
    num_labels: int = 10,
    *,
    widths: Sequence[int] | None = None,
    num_channels: int = 3,
    like: Any = None,
    task: str = "image-classification",
    image_size: int | Sequence[int] | None = None,
    id2label: Mapping[int, str] | None = None,
    label2id: Mapping[str, int] | None = None,
    problem_type: str | None = None,
) -> nn.Module:
    """Build a ResNet for images of CIFAR's size by its depth and width.

    Shortcuts are 1×1 convolutions with batch normalisation where the shape changes, as in the networks of
    distillation papers (Tian et al. 2020); He et al. pad with zeros there.

    Args:
        depth: 6n + 2 for n blocks per stage: 8, 14, 20, 32, 44, 56 or 110.
        width: factor of the published channels, 16, 32 and 64.
        num_labels: number of classes.
        widths: channels of the stem and of the three stages, instead of `width`.
        num_channels: channels of the images.
        like, task, image_size, id2label, label2id, problem_type: unused: accepted because every builder is called with
            them.

    Raises:
        ConfigError: for another depth, a width that leaves no channels, or channels of another number of stages.

    Example:
        >>> model = cifar_resnet(20, num_labels=100)
        >>> sum(p.numel() for p in model.parameters())
        278324

    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        near = [6 * max(blocks, 1) + 2, 6 * max(blocks, 0) + 8]
        raise ConfigError(f"Expected argument `depth` to be 6n + 2 but got {depth}. Closest: {near[0]}, {near[1]}.")
    channels = [round(width * size) for size in _OF_PAPER] if widths is None else list(widths)
    if len(channels) != len(_OF_PAPER) or min(channels) < 1:
        raise ConfigError(f"Expected channels of the stem and of three stages, each at least 1, but got {channels}.")
    return CifarResNet(blocks, channels, num_labels, num_channels)


def resnet8x4(num_labels: int = 10, **options: Any) -> nn.Module:
    """Build ResNet-8x4 (1.2 M): eight layers, stages of 64, 128 and 256 channels. Options as in `cifar_resnet`.

    Example:
        >>> sum(p.numel() for p in resnet8x4(num_labels=100).parameters())
        1233540

    """
    return cifar_resnet(8, num_labels=num_labels, widths=(32, 64, 128, 256), **options)


def resnet32x4(num_labels: int = 10, **options: Any) -> nn.Module:
    """Build ResNet-32x4 (7.4 M): 32 layers of the channels of `resnet8x4`. Options as in `cifar_resnet`."""
    return cifar_resnet(32, num_labels=num_labels, widths=(32, 64, 128, 256), **options)
