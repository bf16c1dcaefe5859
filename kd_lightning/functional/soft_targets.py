"""A student's distribution against a teacher's: divergence and squared error of logits."""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from kd_lightning.core.errors import MatchError
from kd_lightning.functional.logits import check_logits, entries, is_positions, mean_over_logits, rows
from kd_lightning.functional.masking import blank
from kd_lightning.functional.precision import widen
from kd_lightning.functional.softmax import cross_entropy, kl_divergence, masked_log_softmax

Kind = Literal["kl", "ce"]


def soft_target(
    student: Tensor,
    teacher: Tensor,
    temperature: float | Tensor = 1.0,
    teacher_temperature: float | None = None,
    kind: Kind = "kl",
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Mean over rows of KL(p_t ‖ p_s), or of the cross entropy −Σ p_t log p_s, of tempered softmaxes.

    Without the factor T² (`losses.SoftTarget` multiplies by it). Hinton et al. 2015 (1503.02531), section 2.

    Args:
        student: logits (B, C), (B, L, C), or (B, L) over positions.
        teacher: the same shape; detached.
        temperature: of the student, and of the teacher where it has none of its own; one, or one per row.
        teacher_temperature: of the teacher.
        kind: "kl" or "ce"; they differ by the teacher's entropy, which has no gradient.
        mask: (B, L). For (B, L, C) logits: which tokens count. For (B, L) logits: which positions are in the softmax.
        weight: factor per row within the mean.

    Returns:
        A scalar.

    Raises:
        MatchError: shapes that do not belong together, or a single class.

    Example:
        >>> import torch
        >>> z = torch.tensor([[1.0, 2.0]])
        >>> soft_target(z, z, temperature=2.0)
        tensor(0.)

    """
    check_logits("SoftTarget", student, teacher, mask)
    _check_classes(student, mask)
    temperatures = temperature, temperature if teacher_temperature is None else teacher_temperature
    inputs = (student, teacher.detach(), *temperatures, mask, weight)
    return mean_over_logits(partial(_divergence, kind), student, inputs, rows(student, mask))


def soft_target_multilabel(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    teacher_temperature: float | None = None,
    kind: Kind = "kl",
    mask: Tensor | None = None,
) -> Tensor:
    """Mean over rows and labels of the Bernoulli divergence (or cross entropy) of tempered sigmoids, without T².

    Arguments are those of `soft_target`; a mask may also have the logits' own shape, and then leaves labels out.

    Example:
        >>> import torch
        >>> soft_target_multilabel(torch.zeros(1, 3), torch.zeros(1, 3), kind="ce")
        tensor(0.6931)

    """
    check_logits("SoftTarget", student, teacher, mask)
    inputs = (student, teacher.detach(), temperature, teacher_temperature or temperature, mask)
    return mean_over_logits(partial(_divergence_multilabel, kind), student, inputs, mask)


def logit_mse(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, temperature: float | Tensor = 1.0
) -> Tensor:
    """Mean over rows and classes (or over unmasked positions) of the squared difference of logits / temperature.

    Args:
        student: logits (B, C), (B, L, C), or (B, L) over positions.
        teacher: the same shape; detached.
        mask: (B, L): the tokens, or the positions, that count.
        temperature: one, or one per row.

    Example:
        >>> import torch
        >>> logit_mse(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2))
        tensor(5.)

    """
    check_logits("LogitMSE", student, teacher, mask)
    return mean_over_logits(_squares, student, (student, teacher.detach(), temperature, mask), mask)


def _check_classes(logits: Tensor, mask: Tensor | None) -> None:
    """Raise `MatchError` for a single class: its softmax is 1 whatever the logit, and the loss 0 without a word."""
    if logits.shape[-1] == 1 and not is_positions(logits, mask):
        raise MatchError(
            f"SoftTarget got logits of shape {tuple(logits.shape)}: a softmax over one class is always 1, and teaches "
            "nothing. Use multilabel=True where the logit stands for yes or no, or regression=True where it is a value."
        )


def _divergence(
    kind: Kind,
    student: Tensor,
    teacher: Tensor,
    temperature: float | Tensor,
    teacher_temperature: float | Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
) -> Tensor:
    """Return one value per row."""
    log_q, log_p = _tempered(student, temperature, mask), _tempered(teacher, teacher_temperature, mask)
    p = log_p.exp()
    found = kl_divergence(p, log_p, log_q) if kind == "kl" else cross_entropy(p, log_q)
    return found if weight is None else found * weight


def _divergence_multilabel(
    kind: Kind, student: Tensor, teacher: Tensor, temperature: float, teacher_temperature: float, mask: Tensor | None
) -> Tensor:
    """Return one value per label."""
    z_s = blank(widen(student), mask) / temperature
    z_t = blank(widen(teacher), mask) / teacher_temperature
    p, not_p = z_t.sigmoid(), (-z_t).sigmoid()
    loss = -p * logsigmoid(z_s) - not_p * logsigmoid(-z_s)
    return loss if kind == "ce" else loss + p * logsigmoid(z_t) + not_p * logsigmoid(-z_t)


def _squares(student: Tensor, teacher: Tensor, temperature: float | Tensor, mask: Tensor | None) -> Tensor:
    """Return one value per entry."""
    return (blank(widen(student) - widen(teacher), mask) / _divisor(temperature)).square()


def _tempered(logits: Tensor, temperature: float | Tensor, mask: Tensor | None) -> Tensor:
    """Return the log-softmax of logits / temperature, over the positions that take part."""
    return masked_log_softmax(blank(widen(logits), mask) / _divisor(temperature), entries(logits, mask))


def _divisor(temperature: float | Tensor) -> float | Tensor:
    return temperature[..., None] if isinstance(temperature, Tensor) else temperature
