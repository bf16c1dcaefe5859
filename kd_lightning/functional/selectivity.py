"""What the channels of feature maps select: the distance of two sets of neurons, each a pattern over the pixels."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize

from kd_lightning.functional.activation import maps_of_one_size
from kd_lightning.functional.precision import matmul, widen


def nst_mmd(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over samples of the squared maximum mean discrepancy of channels. NST, Huang & Wang 2017, 1707.01219, eq. 8.

    With k(a, b) = ⟨a, b⟩² of channels as unit vectors over the pixels: mean k(t, t) + mean k(s, s) − 2 mean k(s, t).
    That equals ‖ΣF̂_s F̂_sᵀ / C_s − ΣF̂_t F̂_tᵀ / C_t‖² over pairs of pixels; what takes less is computed.

    Args:
        student: (B, C_s, H, W).
        teacher: (B, C_t, H, W); detached. C_t may differ from C_s.

    Raises:
        MatchError: if they are no maps of one size.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 3, 4, 4)
        >>> round(float(nst_mmd(x, 2 * x)), 6)
        0.0

    """
    maps_of_one_size("NSTMMD", student, teacher)
    own, target = (normalize(widen(x).flatten(2), dim=-1) for x in (student, teacher.detach()))
    c_s, c_t, pixels = own.shape[1], target.shape[1], own.shape[2]
    if pixels * (c_s + c_t) <= c_s**2 + c_t**2 + c_s * c_t:
        gap = matmul(own.mT, own) / c_s - matmul(target.mT, target) / c_t
        return gap.square().sum((1, 2)).mean()
    pairs = (own, own), (target, target), (own, target)
    same, other, across = (matmul(a, b.mT).square().mean((1, 2)) for a, b in pairs)
    return (same + other - 2 * across).mean()
