"""How the probabilities of two models correlate: Pearson's coefficient over classes, and over rows."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from kd_lightning.functional.logits import check_classes
from kd_lightning.functional.masking import blank, masked_mean
from kd_lightning.functional.precision import widen_for, widened

EPS = 1e-8
"""What is added to the product of two norms."""


def dist(
    student: Tensor,
    teacher: Tensor,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    floored: bool = False,
) -> Tensor:
    """Return β(1 − mean over rows of ρ) + γ(1 − mean over classes of ρ), ρ Pearson's of softmaxes at T, without T².

    DIST, Huang et al. 2022 (2205.10536), eq. 6 to 9. Of a single row, classes do not vary, and their term is 0.

    Args:
        student: logits (B, C) or (B, L, C), whose tokens are the rows.
        teacher: the same shape; detached.
        beta: weight of the relation between the classes of a row.
        gamma: weight of the relation between the rows of a class.
        temperature: T, of both.
        mask: (B, L), which tokens are rows.
        floored: whether 1e-8 is the least norm in ρ, and not what is added to the product of two.

    Raises:
        MatchError: if shapes do not fit, or there is one class.

    Example:
        >>> import torch
        >>> z = torch.tensor([[0.0, 1.0, 3.0], [2.0, 0.0, 1.0]])
        >>> float(dist(z, z)) < 1e-4
        True

    """
    check_classes("DIST", student, teacher, mask)
    mask = None if mask is None else mask.flatten()
    wide = [widen_for(temperature, x).flatten(0, -2) for x in (student, teacher.detach())]
    p_s, p_t = ((blank(x, mask) / temperature).softmax(-1) for x in wide)
    correlation = partial(cosine_similarity, eps=EPS) if floored else _correlation
    within = 1 - correlation(p_s - p_s.mean(1, keepdim=True), p_t - p_t.mean(1, keepdim=True), 1)
    across = 1 - correlation(_centred(p_s, mask), _centred(p_t, mask), 0).mean()
    rows = torch.tensor(len(p_s), device=p_s.device) if mask is None else mask.bool().sum()
    return (beta * masked_mean(within, mask) + gamma * torch.where(rows > 1, across, 0.0)).to(widened(student))


def _correlation(x: Tensor, y: Tensor, axis: int) -> Tensor:
    norms = torch.linalg.vector_norm(x, dim=axis) * torch.linalg.vector_norm(y, dim=axis)
    return (x * y).sum(axis) / (norms + EPS)


def _centred(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return rows less the mean over those that count; zeros for the others."""
    count = len(x) if mask is None else mask.bool().sum().clamp(min=1)
    return blank(x - blank(x, mask).sum(0) / count, mask)
