"""Squared differences of large features, with few passes over memory: on a CPU that is what they cost."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from kd_lightning.core.errors import MatchError
from kd_lightning.functional.masking import blank, token_pairs
from kd_lightning.functional.precision import matmul, widen


def squared_distance(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return Σ_d (s − t)² over the last axis, in at least float32; zero, without gradient, where masked.

    One tensor of the features' size is made on the way, and one for the gradient; the teacher's is read in its own
    precision. The gradient has no gradient.

    Args:
        student: (…, D).
        teacher: the same shape; gets no gradient.
        mask: the leading axes, or None.

    Example:
        >>> squared_distance(torch.tensor([[1.0, 2.0], [3.0, 3.0]]), torch.zeros(2, 2), torch.tensor([1, 0]))
        tensor([5., 0.])

    """
    return _SquaredDistance.apply(student, teacher.detach(), mask)[0]


class _SquaredDistance(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the distances, and the differences for the gradient."""
        gap = widen(student) - teacher
        if mask is not None:
            gap.masked_fill_(~mask.bool().reshape(mask.shape + (1,) * (gap.dim() - mask.dim())), 0.0)
        return torch.linalg.vector_norm(gap, dim=-1).square(), gap

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])
        ctx.dtype = inputs[0].dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None, None]:
        _refuse_graphs()
        (gap,) = ctx.saved_tensors
        return (gap * (2 * grad).unsqueeze(-1)).to(ctx.dtype), None, None


def token_gram_distance(
    a_s: Tensor, b_s: Tensor | None, a_t: Tensor, b_t: Tensor | None, mask: Tensor | None = None, axis: int = 2
) -> Tensor:
    """Return per sample Σ over pairs of unmasked tokens of (a_s b_sᵀ/n_s − a_t b_tᵀ/n_t)², in at least float32.

    One (B, L, L) tensor is kept for the gradient, which has no gradient itself.

    Args:
        a_s: (B, L, D_s).
        b_s: the same shape; None: `a_s` once more.
        a_t: (B, L, D_t); gets no gradient.
        b_t: the same shape; None: `a_t` once more.
        mask: (B, L), or None.
        axis: whose size n is: 2 for the width, 1 for the length.

    Returns:
        (B,).

    Example:
        >>> one, wide = torch.ones(1, 2, 3), torch.ones(1, 2, 5)
        >>> token_gram_distance(one, None, 2 * wide, None)
        tensor([36.])

    """
    return _TokenGramDistance.apply(a_s, b_s, a_t.detach(), None if b_t is None else b_t.detach(), mask, axis)[0]


class _TokenGramDistance(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        a_s: Tensor, b_s: Tensor | None, a_t: Tensor, b_t: Tensor | None, mask: Tensor | None, axis: int
    ) -> tuple[Tensor, Tensor]:
        """Return the distances, and the differences for the gradient."""
        gap = _gram(a_s, b_s, mask, axis).sub_(_gram(a_t, b_t, mask, axis))
        if mask is not None:
            gap.masked_fill_(~token_pairs(mask), 0.0)
        return torch.linalg.vector_norm(gap, dim=(1, 2)).square(), gap

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        a_s, b_s, _, b_t, mask, axis = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(a_s, b_s, mask, output[1])
        ctx.size, ctx.symmetric = a_s.shape[axis], b_t is None

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        _refuse_graphs()
        a, b, mask, gap = ctx.saved_tensors
        gap = gap * (2 * grad / ctx.size).reshape(-1, 1, 1)
        other = blank(widen(a if b is None else b), mask)
        if b is None:
            both = 2 * gap if ctx.symmetric else gap + gap.transpose(1, 2)
            return matmul(both, other).to(a.dtype), None, None, None, None, None
        second = matmul(gap.transpose(1, 2), blank(widen(a), mask)).to(b.dtype)
        return matmul(gap, other).to(a.dtype), second, None, None, None, None


def _refuse_graphs() -> None:
    if torch.is_grad_enabled():  # only then is a graph of the gradient made
        raise MatchError(
            "The gradients of HiddenMSE and NST have no gradient themselves, so backward cannot run with "
            "create_graph=True. Use nn.MSELoss() for hidden states."
        )


def _gram(a: Tensor, b: Tensor | None, mask: Tensor | None, axis: int) -> Tensor:
    """Return (B, L, L): the inner products of tokens of two layers, divided by the size of one of their axes."""
    first = blank(widen(a), mask)
    second = first if b is None else blank(widen(b), mask)
    return matmul(first, second.transpose(1, 2)) / a.shape[axis]
