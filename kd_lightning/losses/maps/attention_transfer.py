"""Attention transfer: where the maps of a layer are active."""

from __future__ import annotations

from torch import Tensor

from kd_lightning.core.errors import ConfigError
from kd_lightning.functional.activation import Norm, attention_transfer
from kd_lightning.losses.maps.base import MapLoss
from kd_lightning.losses.options import check_choice, check_positive


class AttentionTransfer(MapLoss):
    """Mean over samples and pixels of (q̂_s − q̂_t)², q̂ the unit vector of Σ_c |F_c|^p. 1612.03928, eq. 2.

    Teaches where to look, whatever the numbers of channels: no projection, no parameters. The usual weight is 1000, of
    the mean over the last three stages; `norm="l2"` is the paper's ½‖q̂_s − q̂_t‖, with weights about 10³ smaller.

    Args:
        power: p, at least 1.
        norm: "squared" or "l2".

    Raises:
        ConfigError: if `power` is below 1, or `norm` is neither.
        MatchError: if features are no maps.

    Example:
        >>> import torch
        >>> AttentionTransfer()(torch.ones(1, 2, 2, 2), torch.ones(1, 3, 2, 2))
        tensor(0.)

    """

    def __init__(self, power: float = 2, norm: Norm = "squared") -> None:
        super().__init__()
        check_positive("power", power)
        if power < 1:
            raise ConfigError(f"Expected argument `power` to be at least 1 but got {power!r}: 0 has no gradient there.")
        check_choice("norm", norm, ("squared", "l2"))
        self.power, self.norm = power, norm

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare maps (B, C_s, H, W) and (B, C_t, H, W)."""
        return attention_transfer(student, teacher, self.power, self.norm)
