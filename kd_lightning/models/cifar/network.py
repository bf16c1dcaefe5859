"""What networks for images of CIFAR's size have in common: the names of their parts, stages, and how weights begin."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from kd_lightning.core.errors import ConfigError
from kd_lightning.models.cifar.preactivation import Preactivation


class CifarNetwork(nn.Module):
    """A stem, stages, mean pooling and a linear head: in every network under the same names.

    Addresses: `stem`; `stages.1` to `stages.k`, also `hidden.1` to `hidden.k`; `stages.k.preact`, what goes into the
    last ReLU of a stage; `tail`, what some networks have behind their stages; `pool` (B, D); `head`. No ReLU is in
    place.

    Args:
        stem: what images go through first.
        stages: what follows, each of one size of maps.
        width: channels that are pooled.
        num_labels: number of classes.
        num_channels: channels of the images.
        tail: what is between the last stage and the pooling.
    """

    main_input_name: ClassVar[str] = "pixel_values"
    """The argument of `forward` that images go to, as Transformers models declare it."""

    image_size: ClassVar[int] = 32
    """Height and width of CIFAR's images; others work, too."""

    def __init__(
        self,
        stem: nn.Module,
        stages: Iterable[Stage],
        width: int,
        num_labels: int,
        num_channels: int,
        tail: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.stem = stem
        self.stages = nn.Sequential(OrderedDict((str(k), stage) for k, stage in enumerate(stages, start=1)))
        self.tail = nn.Identity() if tail is None else tail
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(width, num_labels)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W)."""
        return self.head(self.pool(self.tail(self.stages(self.stem(pixel_values)))))


class Stage(nn.Module):
    """Blocks that run one after the other.

    Args:
        blocks: the blocks, of which the first may halve height and width.
        preact: what goes into the ReLU behind the last block; None: the last block has it.
    """

    def __init__(self, blocks: Sequence[nn.Module], preact: Preactivation | None = None) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.preact = self.blocks[-1].preact if preact is None else preact

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (B, C, H, W)."""
        return self.blocks(x)


def conv(width: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a convolution without bias that keeps height and width, or divides them by its stride."""
    return nn.Conv2d(width, out, kernel, stride, kernel // 2, groups=groups, bias=False)


def conv_norm_relu(width: int, out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Return a convolution, a batch norm and a ReLU, under these names."""
    parts = {"conv": conv(width, out, kernel, stride), "norm": nn.BatchNorm2d(out), "relu": nn.ReLU()}
    return nn.Sequential(OrderedDict(parts))


def init_weights(model: CifarNetwork, head: float | None = None) -> None:
    """Let weights begin as He et al. 2015 say: those of convolutions with the deviation √(2 / (kernel² · out)).

    Args:
        model: the network.
        head: the deviation of the head's weights, whose bias is zero then; None leaves the head as it is.

    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if head is not None:
        nn.init.normal_(model.head.weight, std=head)
        nn.init.zeros_(model.head.bias)


def scaled(sizes: Sequence[int], width: float) -> list[int]:
    """Return published channels times a factor.

    Raises:
        ConfigError: for a factor that leaves no channels.

    """
    channels = [round(width * size) for size in sizes]
    if min(channels) < 1:
        raise ConfigError(f"Expected argument `width` to leave channels in every stage, but {width} gives {channels}.")
    return channels


def channels_of(
    *,
    num_channels: int = 3,
    like: Any = None,
    task: str = "image-classification",
    image_size: int | Sequence[int] | None = None,
    id2label: Mapping[int, str] | None = None,
    label2id: Mapping[str, int] | None = None,
    problem_type: str | None = None,
) -> int:
    """Return the channels of the images, out of the options that every builder is called with.

    Args:
        num_channels: channels of the images.
        like, task, image_size, id2label, label2id, problem_type: unused.

    """
    return num_channels
