"""How two layers of one model relate, against how two layers of the other do."""

from __future__ import annotations

from functools import partial
from typing import Literal, TypeAlias

from torch import Tensor

from kd_lightning.functional.chunks import chunked_mean
from kd_lightning.functional.masking import blank, token_pairs
from kd_lightning.functional.precision import matmul, widen
from kd_lightning.functional.shapes import SAME_TOKENS, layer_pair, mask_fits, same_shape

LayerPair: TypeAlias = tuple[Tensor, Tensor]
"""Hidden states of two layers of one model, each (B, L, D)."""


def fsp(student: LayerPair, teacher: LayerPair, mask: Tensor | None = None) -> Tensor:
    """Mean over samples and D×D′ of (G_s − G_t)², with G = Σ_l a_l b_lᵀ / len the flow from layer a to layer b.

    Yim et al., CVPR 2017, eq. 1 and 2, over tokens instead of pixels.

    Args:
        student: two layers, (B, L, D) and (B, L, D′).
        teacher: two layers of the same shapes; detached.
        mask: (B, L); a sample without unmasked token counts for nothing.

    Example:
        >>> import torch
        >>> one = torch.ones(1, 2, 3)
        >>> fsp((one, one), (one, 0 * one))
        tensor(1.)

    """
    layer_pair("FSP", student, teacher)
    for s, t in zip(student, teacher, strict=True):
        same_shape("FSP", s, t, axis=-1, fix="their widths differ, add projection='linear'")
    mask_fits("FSP", mask, *student)
    samples = None if mask is None else mask.bool().any(-1)
    entries = student[0].shape[0] * student[0].shape[-1] * student[1].shape[-1]
    return chunked_mean(_channel_squares, (*student, *(x.detach() for x in teacher), mask), samples, entries)


def nst(
    student: LayerPair,
    teacher: LayerPair,
    mask: Tensor | None = None,
    divide_by: Literal["width", "length"] = "width",
) -> Tensor:
    """Mean over pairs of unmasked tokens of (a_s b_sᵀ/D_s − a_t b_tᵀ/D_t)².

    The token-Gram form that toolkits call NST or MMD; the MMD of Huang & Wang 2017 (1707.01219) is another loss.

    Args:
        student: two layers, each (B, L, D_s).
        teacher: two layers, each (B, L, D_t); detached. D_t may differ from D_s.
        mask: (B, L).
        divide_by: "length" divides both products by L, padding included, instead of D_s and D_t.

    Example:
        >>> import torch
        >>> one, wide = torch.ones(1, 2, 3), torch.ones(1, 2, 5)
        >>> nst((one, one), (wide, wide))
        tensor(0.)

    """
    layer_pair("NST", student, teacher, equal_widths=True)
    for s, t in zip(student, teacher, strict=True):
        same_shape("NST", s[..., 0], t[..., 0], axis=-1, fix=SAME_TOKENS)
    mask_fits("NST", mask, *student)
    axis = 2 if divide_by == "width" else 1
    first = teacher[0].detach()  # one layer with itself, as usual, stays one tensor
    second = first if teacher[1] is teacher[0] else teacher[1].detach()
    inputs, pairs = (*student, first, second, mask), None if mask is None else token_pairs(mask)
    entries = 2 * student[0].shape[0] * student[0].shape[1] ** 2  # two products live side by side
    return chunked_mean(partial(_token_squares, axis), inputs, pairs, entries)


def _channel_squares(a_s: Tensor, b_s: Tensor, a_t: Tensor, b_t: Tensor, mask: Tensor | None) -> Tensor:
    return (_channel_gram((a_s, b_s), mask) - _channel_gram((a_t, b_t), mask)).square()


def _token_squares(axis: int, a_s: Tensor, b_s: Tensor, a_t: Tensor, b_t: Tensor, mask: Tensor | None) -> Tensor:
    return (_token_gram((a_s, b_s), mask, axis) - _token_gram((a_t, b_t), mask, axis)).square()


def _channel_gram(pair: LayerPair, mask: Tensor | None) -> Tensor:
    """Return (B, D, D′): Σ_l a_l b_lᵀ over unmasked tokens, divided by their number."""
    a, b = (blank(widen(layer), mask) for layer in pair)
    gram = matmul(a.transpose(1, 2), b)
    if mask is None:
        return gram / a.shape[1]
    return gram / mask.bool().sum(-1).clamp(min=1).reshape(-1, 1, 1)


def _token_gram(pair: LayerPair, mask: Tensor | None, axis: int) -> Tensor:
    """Return (B, L, L): the inner products of tokens of two layers, divided by the size of one of their axes."""
    a = blank(widen(pair[0]), mask)
    b = a if pair[1] is pair[0] else blank(widen(pair[1]), mask)
    return matmul(a, b.transpose(1, 2)) / a.shape[axis]
