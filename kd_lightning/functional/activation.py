"""Where feature maps (B, C, H, W) are active: attention of a whole layer, and of each channel."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from kd_lightning.core.errors import MatchError
from kd_lightning.functional.masking import kl_divergence
from kd_lightning.functional.precision import widen
from kd_lightning.functional.shapes import one_feature, same_features
from kd_lightning.functional.unit import unit

Norm = Literal["squared", "l2"]


def attention_transfer(
    student: Tensor, teacher: Tensor, power: float = 2, norm: Norm = "squared", eps: float | None = None
) -> Tensor:
    """Mean over samples and pixels of (q̂_s − q̂_t)², q̂ the unit vector of q = Σ_c |F_c|^p. 1612.03928, eq. 2.

    Args:
        student: (B, C_s, H, W).
        teacher: (B, C_t, H, W); detached.
        power: p.
        norm: "l2": ½ · mean over samples of ‖q̂_s − q̂_t‖ instead, as in the paper.
        eps: added to the length of q; None: a floor.

    Raises:
        MatchError: if they are no maps of one size.

    Example:
        >>> import torch
        >>> attention_transfer(torch.ones(1, 2, 2, 2), torch.ones(1, 3, 2, 2))
        tensor(0.)

    """
    maps_of_one_size("AttentionTransfer", student, teacher)
    gap = attention(student, power, eps) - attention(teacher.detach(), power, eps)
    if norm == "l2":
        return torch.linalg.vector_norm(gap, dim=1).mean() / 2
    return gap.square().mean()


def attention(features: Tensor, power: float = 2, eps: float | None = None) -> Tensor:
    """Return where maps are active, (B, H·W), of unit length: Σ_c |F_c|^p, normalised; zero where all channels are."""
    wide = widen(features).flatten(2)
    raised = wide.square() if power == 2 else wide.abs().pow(power)
    return unit(raised.sum(1), eps=eps)


def channel_wise(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over samples and channels of KL(φ_t ‖ φ_s), φ the softmax of a channel's pixels / T. 2011.13256, eq. 4.

    Args:
        student: (B, C, H, W).
        teacher: the same shape; detached.
        temperature: T, of both; the factor T² is not in the value.

    Raises:
        MatchError: if shapes differ.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 3, 4, 4)
        >>> float(channel_wise(x, x + 5)) < 1e-6
        True

    """
    maps_of_one_size("ChannelWise", student, teacher)
    same_features("ChannelWise", student, teacher)
    log_q, log_p = ((widen(x).flatten(2) / temperature).log_softmax(-1) for x in (student, teacher.detach()))
    return kl_divergence(log_p.exp(), log_p, log_q).mean()


def maps_of_one_size(loss: str, student: Tensor, teacher: Tensor) -> None:
    """Check that both are maps (B, C, H, W) that agree but for their channels.

    Raises:
        MatchError: if they are not.

    Example:
        >>> import torch
        >>> maps_of_one_size("NSTMMD", torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4, 4))

    """
    one_feature(loss, student, teacher)
    shapes = tuple(student.shape), tuple(teacher.shape)
    if student.dim() != 4 or teacher.dim() != 4:
        raise MatchError(f"{loss} compares feature maps (B, C, H, W) but got {shapes[0]} and {shapes[1]}.")
    if student.shape[0] != teacher.shape[0] or student.shape[2:] != teacher.shape[2:]:
        raise MatchError(
            f"{loss} needs maps of one batch and one size but got {shapes[0]} from the student and {shapes[1]} from "
            "the teacher: a term brings maps to one size, unless resize=None."
        )
