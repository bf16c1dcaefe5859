"""A temperature for every sample, from how the student does on it; and teachers corrected by labels."""

from __future__ import annotations

import torch
from torch import Tensor

from kd_lightning.functional.logits import entries, per_row, rows
from kd_lightning.functional.masking import blank, masked_log_softmax, masked_mean
from kd_lightning.functional.precision import widen


@torch.no_grad()
def focal_temperature(
    student: Tensor, teacher: Tensor, base: float, beta: float, gamma: float, mask: Tensor | None = None
) -> Tensor:
    """Return T = base + (mean w − w)·β per row, w = (1 − cos(z_s, z_t))^γ: softer targets where the two agree.

    Wen et al. 2019 (1911.07471), focal loss style.

    Args:
        student: logits (B, C), (B, L, C), or (B, L) over positions.
        teacher: the same shape.
        base: the temperature around which the others lie.
        beta: how far.
        gamma: power, not negative.
        mask: (B, L); the mean runs over the rows that count.

    Returns:
        The logits' shape without its last axis.

    Example:
        >>> s, t = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 2.0]])
        >>> focal_temperature(s, t, base=4.0, beta=1.0, gamma=1.0).round(decimals=1)
        tensor([4.5000, 3.5000])

    """
    away = per_row(_distance, student, (student, teacher, mask))
    return _around(base, beta, away**gamma, rows(student, mask))


@torch.no_grad()
def confidence_temperature(student: Tensor, base: float, beta: float, mask: Tensor | None = None) -> Tensor:
    """Return T = base + (mean w − w)·β per row, w = 1 / (max p_s + 0.001): softer targets where the student is sure.

    Wen et al. 2019 (1911.07471), confidence weighted by the student's softmax maximum. Arguments as in
    `focal_temperature`.

    Example:
        >>> confidence_temperature(torch.tensor([[0.0, 0.0], [99.0, 0.0]]), base=4.0, beta=1.0).round(decimals=1)
        tensor([3.5000, 4.5000])

    """
    best = per_row(_largest, student, (student, mask))
    return _around(base, beta, 1 / (best + 1e-3), rows(student, mask))


def _distance(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """Return 1 − cos of rows; a class that a model rules out (−∞) counts as 0."""
    s, t = (blank(widen(x), mask) for x in (student, teacher))
    s, t = (x.masked_fill(x == -torch.inf, 0.0) for x in (s, t))
    return (1 - _unit(s).mul(_unit(t)).sum(-1)).clamp(min=0)


def _largest(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Return the largest probability of rows."""
    return masked_log_softmax(blank(widen(logits), mask), entries(logits, mask)).amax(-1).exp()


def _unit(x: Tensor) -> Tensor:
    return x / (x.norm(dim=-1, keepdim=True) + 1e-4)


def _around(base: float, beta: float, w: Tensor, mask: Tensor | None) -> Tensor:
    return base + (masked_mean(w, mask) - w) * beta


def shifted(teacher: Tensor, labels: Tensor) -> Tensor:
    """Return the teacher's logits with the largest one and the true label's exchanged: a teacher that is never wrong.

    Wen et al. 2019 (1911.07471), probability shift.

    Args:
        teacher: logits (B, C), (B, L, C), or (B, L) over positions; left as they are.
        labels: integers, the logits' shape without its last axis; rows whose label is negative or no class stay.

    Example:
        >>> shifted(torch.tensor([[5.0, 1.0, 2.0], [5.0, 1.0, 2.0]]), torch.tensor([1, -100]))
        tensor([[1., 5., 2.],
                [5., 1., 2.]])

    """
    known = (labels >= 0) & (labels < teacher.shape[-1])
    best = teacher.argmax(-1, keepdim=True)
    true = torch.where(known[..., None], labels[..., None], best)
    largest, right = teacher.gather(-1, best), teacher.gather(-1, true)
    return teacher.scatter(-1, best, right).scatter(-1, true, largest)
