"""Channel-wise distillation: where each channel is active."""

from __future__ import annotations

from torch import Tensor

from kd_lightning.functional.activation import channel_wise
from kd_lightning.losses.maps.base import MapLoss
from kd_lightning.losses.options import check_positive


class ChannelWise(MapLoss):
    """T² · mean over samples and channels of KL(φ_t ‖ φ_s), φ = softmax of a channel's pixels / T. 2011.13256, eq. 4.

    For dense prediction (segmentation, detection), where each channel answers to one kind of thing; published weights
    are 3 at T = 4 for logit maps, and 5 to 10 at T = 1. Channels must agree: `projection="conv"` where they do not.

    Args:
        temperature: T.

    Raises:
        ConfigError: if the temperature is not positive.
        MatchError: if shapes differ.

    Example:
        >>> import torch
        >>> ChannelWise()(torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.0, 100.0]]]]))
        tensor(0.6931)

    """

    equal_widths = True

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare maps (B, C, H, W)."""
        return self.temperature**2 * channel_wise(student, teacher, self.temperature)
