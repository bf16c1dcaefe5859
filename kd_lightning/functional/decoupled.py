"""Logits split at the true class: how likely it is, and how the other classes share the rest."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from kd_lightning.core.errors import MatchError
from kd_lightning.functional.hard_label import IGNORED, explain_range
from kd_lightning.functional.logits import check_classes, mean_over_logits
from kd_lightning.functional.masking import blank, times
from kd_lightning.functional.precision import widen, widen_for, widened


def dkd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor | None,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Mean over rows of α·KL(b_t ‖ b_s) + β·KL(n_t ‖ n_s), without T². Decoupled distillation, 2203.08679, eq. 7.

    b is the pair (p_y, 1 − p_y) of the true class and all others, n the softmax of the others alone. Logarithms of
    1 − p_y come from the logits, so that gaps of hundreds between them stay finite.

    Args:
        student: logits (B, C) or (B, L, C).
        teacher: the same shape; detached.
        labels: (B,) or (B, L), one class per row; rows of −100 count for nothing.
        alpha: weight of the true class.
        beta: weight of the other classes.
        temperature: T, of both.
        mask: (B, L), which tokens count.

    Raises:
        MatchError: if shapes do not fit.

    Example:
        >>> import torch
        >>> z, y = torch.tensor([[0.0, 120.0, 1.0]]), torch.tensor([0])
        >>> dkd(z, z, y)
        tensor(0.)

    """
    keep = labelled_rows("DKD", student, teacher, labels, mask)
    values = partial(_dkd_rows, alpha=alpha, beta=beta, temperature=temperature)
    return _mean("DKD", values, student, teacher, labels, keep)


def nkd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor | None,
    gamma: float = 1.5,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Mean over rows of −p_t,y log p_s,y − γ·T² Σ_{i≠y} n_t,i log n_s,i. Normalised distillation, 2303.13005, eq. 8.

    p is the softmax at T = 1, n that of the other classes at T: cross entropies, as of the authors, not divergences.

    Arguments are those of `dkd`; gamma is the weight of the other classes.

    Example:
        >>> import torch
        >>> round(float(nkd(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0]))), 4)
        0.3466

    """
    keep = labelled_rows("NKD", student, teacher, labels, mask)
    values = partial(_nkd_rows, gamma=gamma, temperature=temperature)
    return _mean("NKD", values, student, teacher, labels, keep)


def labelled_rows(loss: str, student: Tensor, teacher: Tensor, labels: Tensor | None, mask: Tensor | None) -> Tensor:
    """Return which rows of two logits tensors count: those with a label, and not masked.

    Args:
        loss: its name, for messages.
        student: logits (B, C) or (B, L, C).
        teacher: the same shape.
        labels: one class per row, −100 where there is none.
        mask: (B, L).

    Raises:
        MatchError: if shapes do not fit, labels are missing or are no classes, or there is only one class.

    Example:
        >>> import torch
        >>> labelled_rows("DKD", torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([2, -100]), None)
        tensor([ True, False])

    """
    check_classes(loss, student, teacher, mask)
    if labels is None or labels.shape != student.shape[:-1] or labels.is_floating_point():
        got = "none" if labels is None else f"labels of shape {tuple(labels.shape)} and type {labels.dtype}"
        raise MatchError(f"{loss} needs one class for each row of logits {tuple(student.shape)}, but got {got}.")
    return labels != IGNORED if mask is None else (labels != IGNORED) & mask.bool()


def cross_entropies(loss: str, logits: Tensor, labels: Tensor | None, keep: Tensor) -> Tensor:
    """Return the cross entropy of each row that counts with its label; of others a number without meaning.

    Args:
        loss: its name, for messages.
        logits: (…, C).
        labels: (…), as `labelled_rows` has checked them.
        keep: (…), which rows count.

    Raises:
        MatchError: if a label is none of the classes.

    Example:
        >>> import torch
        >>> cross_entropies("WSLD", torch.zeros(1, 2), torch.tensor([0]), torch.tensor([True]))
        tensor([0.6931])

    """
    classes = class_of(labels, keep)
    log_p = blank(widen(logits), keep).log_softmax(-1)
    with_label = partial(log_p.gather, -1, classes.unsqueeze(-1))
    return -within_range(loss, with_label, classes, keep, logits.shape[-1]).squeeze(-1)


def class_of(labels: Tensor | None, keep: Tensor) -> Tensor:
    """Return labels as indices, 0 for rows that do not count."""
    assert labels is not None, "labelled_rows has raised an error for it"
    return labels.long().masked_fill(~keep, 0)


def within_range(loss: str, call: Callable[[], Tensor], labels: Tensor, keep: Tensor, classes: int) -> Tensor:
    """Return `call()`, or where that fails for a label that is none of the classes, an error that names it.

    Raises:
        MatchError: naming the label and its row; on a GPU PyTorch's own error.

    """
    try:
        return call()
    except (RuntimeError, IndexError):
        if labels.device.type == "cpu":
            explain_range(loss, labels, keep, classes)
        raise


def _mean(
    loss: str, values: Callable[..., Tensor], student: Tensor, teacher: Tensor, labels: Tensor | None, keep: Tensor
) -> Tensor:
    classes = class_of(labels, keep)
    call = partial(mean_over_logits, values, student, (student, teacher.detach(), classes, keep), keep)
    return within_range(loss, call, classes, keep, student.shape[-1]).to(widened(student))


def split(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log p_y and log(1 − p_y) of each row, and the log-softmax of the other classes, −∞ at the true one.

    Args:
        logits: (…, C), finite.
        labels: (…), each in [0, C).

    Example:
        >>> import torch
        >>> own, other, rest = split(torch.zeros(1, 4), torch.tensor([3]))
        >>> own.exp(), other.exp(), rest.exp()
        (tensor([0.2500]), tensor([0.7500]), tensor([[0.3333, 0.3333, 0.3333, 0.0000]]))

    """
    own = labels.unsqueeze(-1)
    others = logits.scatter(-1, own, float("-inf"))
    log_all, log_others = logits.logsumexp(-1), others.logsumexp(-1)
    return logits.gather(-1, own).squeeze(-1) - log_all, log_others - log_all, others - log_others.unsqueeze(-1)


def _dkd_rows(
    student: Tensor, teacher: Tensor, labels: Tensor, keep: Tensor, alpha: float, beta: float, temperature: float
) -> Tensor:
    own_s, other_s, rest_s = split(blank(widen_for(temperature, student), keep) / temperature, labels)
    own_t, other_t, rest_t = split(blank(widen_for(temperature, teacher), keep) / temperature, labels)
    target = times(own_t.exp(), own_t - own_s) + times(other_t.exp(), other_t - other_s)
    return alpha * target + beta * times(rest_t.exp(), _finite(rest_t) - _finite(rest_s)).sum(-1)


def _nkd_rows(
    student: Tensor, teacher: Tensor, labels: Tensor, keep: Tensor, gamma: float, temperature: float
) -> Tensor:
    student, teacher = blank(widen(student), keep), blank(widen(teacher), keep)
    own_s, own_t = (x.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1) for x in (student, teacher))
    rest_s, rest_t = (split(x / temperature, labels)[2] for x in (student, teacher))
    others = -times(rest_t.exp(), _finite(rest_s)).sum(-1)
    return -times(own_t.exp(), own_s) + gamma * temperature**2 * others


def _finite(log_p: Tensor) -> Tensor:
    """Return log-probabilities with 0 at the class that was left out, where its probability is 0 too."""
    return log_p.masked_fill(log_p == float("-inf"), 0.0)
