"""Logits against logits: what a mask over them means, divergences of softened distributions, and squared error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from kd_lightning.core.errors import MatchError
from kd_lightning.functional import chunks
from kd_lightning.functional.masking import blank, count, cross_entropy, kl_divergence, masked_log_softmax, times
from kd_lightning.functional.precision import widen, widen_for, widened
from kd_lightning.functional.shapes import same_shape

Divergence: TypeAlias = Literal["kl", "ce"]


def is_positions(logits: Tensor, mask: Tensor | None) -> bool:
    """Return whether the last axis of `logits` is positions, as in start and end logits (B, L).

    A mask of the same shape shows it. Otherwise it is classes, and a mask, if any, covers the axes before it.
    """
    return mask is not None and mask.shape == logits.shape


def entries(logits: Tensor, mask: Tensor | None) -> Tensor | None:
    """Return which entries of the last axis take part in the softmax, None for all."""
    return mask if is_positions(logits, mask) else None


def rows(logits: Tensor, mask: Tensor | None) -> Tensor | None:
    """Return which rows (the axes before the last) count, None for all."""
    return mask.bool().any(-1) if mask is not None and is_positions(logits, mask) else mask


def count_rows(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Return the number of rows that count, as a float scalar."""
    return count(logits, rows(logits, mask), logits.shape[:-1])


def mean_over_logits(
    values: Callable[..., Tensor], logits: Tensor, inputs: Sequence[Any], mask: Tensor | None
) -> Tensor:
    """Return `masked_mean(values(*inputs), mask)`; of large logits a few rows at a time.

    Args:
        values: one value per row, or per entry, of logits (R, C) and what belongs to them.
        logits: which logits this is about.
        inputs: tensors with the axes of `logits`, or with all but the last; anything else is passed on as it is.
        mask: likewise: which values count.

    """
    inputs, size = [mask, *inputs], logits.numel()
    mask, *inputs = _by_row(inputs, logits) if size > chunks.CHUNK else inputs
    return chunks.chunked_mean(values, inputs, mask, size)


def per_row(values: Callable[..., Tensor], logits: Tensor, inputs: Sequence[Any]) -> Tensor:
    """Return `values(*inputs)`, one value per row; of large logits a few rows at a time. See `mean_over_logits`."""
    if logits.numel() <= chunks.CHUNK:
        return values(*inputs)
    return chunks.chunked(values, _by_row(inputs, logits), logits.numel()).reshape(logits.shape[:-1])


def _by_row(inputs: Sequence[Any], logits: Tensor) -> list[Any]:
    """Return the inputs with one axis for all rows."""
    width, rows = logits.shape[-1], logits.shape[:-1]

    def cut(x: Any) -> Any:
        if not chunks.has_items(x):
            return x
        return x.reshape(-1, width) if x.dim() == logits.dim() else x.expand(rows).reshape(-1)

    return [cut(x) for x in inputs]


def check_logits(loss: str, student: Tensor, teacher: Tensor, mask: Tensor | None) -> None:
    """Check that two logits tensors and their mask belong together.

    Raises:
        MatchError: if shapes differ, or the mask covers neither the rows nor the entries.

    """
    same_shape(loss, student, teacher, axis=-1, fix="give both models the same number of labels")
    check_logits_mask(loss, student, mask)


def check_classes(loss: str, student: Tensor, teacher: Tensor, mask: Tensor | None) -> None:
    """Check that two logits tensors and their mask belong together, and that they are over several classes.

    Raises:
        MatchError: if shapes differ, the mask does not cover the rows, or there is one class.

    """
    check_logits(loss, student, teacher, mask)
    if is_positions(student, mask):
        raise MatchError(f"{loss} compares classes, and these logits {tuple(student.shape)} are over positions.")
    if student.shape[-1] < 2:
        raise MatchError(f"{loss} compares classes, and logits of shape {tuple(student.shape)} have one: use LogitMSE.")


def check_logits_mask(loss: str, logits: Tensor, mask: Tensor | None) -> None:
    """Check that a mask covers the rows or the entries of `logits`.

    Raises:
        MatchError: if it covers neither.

    """
    if mask is not None and mask.shape not in (logits.shape[:-1], logits.shape):
        raise MatchError(
            f"{loss} got a mask of shape {tuple(mask.shape)} for logits of shape {tuple(logits.shape)}: a mask covers "
            f"the axes before the classes, or, for start and end logits, has their own shape."
        )


def soft_target(
    student: Tensor,
    teacher: Tensor,
    temperature: float | Tensor = 1.0,
    teacher_temperature: float | None = None,
    divergence: Divergence = "kl",
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Mean over rows of KL(p_t ‖ p_s), or of the cross entropy −Σ p_t log p_s, of softmaxes of logits / temperature.

    Without the factor T² (`losses.SoftTarget` multiplies by it). Hinton et al. 2015 (1503.02531), section 2.

    Args:
        student: logits (B, C), (B, L, C), or (B, L) over positions.
        teacher: the same shape; detached.
        temperature: of the student, and of the teacher where it has none of its own; one, or one per row.
        teacher_temperature: of the teacher.
        divergence: "kl" or "ce"; they differ by the teacher's entropy, which has no gradient.
        mask: (B, L). For (B, L, C) logits: which tokens count. For (B, L) logits: which positions are in the softmax.
        weight: factor per row within the mean.

    Returns:
        A scalar.

    Raises:
        MatchError: if shapes differ, the mask fits neither rows nor positions, or there is a single class.

    Example:
        >>> import torch
        >>> z = torch.tensor([[1.0, 2.0]])
        >>> soft_target(z, z, temperature=2.0)
        tensor(0.)

    """
    loss = "SoftTarget" if divergence == "kl" else "SoftCrossEntropy"
    check_logits(loss, student, teacher, mask)
    if student.shape[-1] == 1 and not is_positions(student, mask):  # the loss would be 0 whatever the logit
        raise MatchError(
            f"{loss} got logits of shape {tuple(student.shape)}: a softmax over one class is always 1, and teaches "
            "nothing. Use SoftLabels where the logit stands for yes or no, or LogitMSE where it is a value."
        )
    temperatures = temperature, temperature if teacher_temperature is None else teacher_temperature
    inputs = (student, teacher.detach(), *temperatures, mask, weight)
    found = mean_over_logits(partial(_softmax_divergence, divergence), student, inputs, rows(student, mask))
    return found.to(widened(student))


def soft_labels(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    teacher_temperature: float | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Mean over rows and labels of the Bernoulli KL of sigmoids of logits / temperature, without T².

    Arguments are those of `soft_target`; a mask may also have the logits' own shape, and then leaves labels out.

    Example:
        >>> import torch
        >>> soft_labels(torch.zeros(1, 3), torch.zeros(1, 3))
        tensor(0.)

    """
    check_logits("SoftLabels", student, teacher, mask)
    inputs = (student, teacher.detach(), temperature, teacher_temperature or temperature, mask)
    return mean_over_logits(_sigmoid_divergence, student, inputs, mask).to(widened(student))


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


def _softmax_divergence(
    divergence: Divergence,
    student: Tensor,
    teacher: Tensor,
    temperature: float | Tensor,
    teacher_temperature: float | Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
) -> Tensor:
    """Return one value per row."""
    lower = _lower(temperature, teacher_temperature)
    log_q = _log_probabilities(widen_for(lower, student), temperature, mask)
    log_p = _log_probabilities(widen_for(lower, teacher), teacher_temperature, mask)
    p = log_p.exp()
    found = kl_divergence(p, log_p, log_q) if divergence == "kl" else cross_entropy(p, log_q)
    return found if weight is None else found * weight


def _log_probabilities(logits: Tensor, temperature: float | Tensor, mask: Tensor | None) -> Tensor:
    """Return the log-softmax of logits / temperature, over the positions that take part."""
    return masked_log_softmax(blank(logits, mask) / _divisor(temperature), entries(logits, mask))


def _lower(*temperatures: float | Tensor) -> float:
    """Return the lower of two temperatures; of those of rows, a bound that their precision tells."""
    return min(t if not isinstance(t, Tensor) else torch.inf if t.dtype == torch.float64 else 1.0 for t in temperatures)


def _sigmoid_divergence(
    student: Tensor, teacher: Tensor, temperature: float, teacher_temperature: float, mask: Tensor | None
) -> Tensor:
    """Return one value per label."""
    lower = _lower(temperature, teacher_temperature)
    z_s = blank(widen_for(lower, student), mask) / temperature
    z_t = blank(widen_for(lower, teacher), mask) / teacher_temperature
    yes, no = (times((sign * z_t).sigmoid(), logsigmoid(sign * z_t) - logsigmoid(sign * z_s)) for sign in (1, -1))
    return yes + no


def _squares(student: Tensor, teacher: Tensor, temperature: float | Tensor, mask: Tensor | None) -> Tensor:
    """Return one value per entry; 0 where both are −∞, as of a class that both models rule out."""
    gap = (widen(student) - widen(teacher)).masked_fill(student == teacher, 0.0)
    return (blank(gap, mask) / _divisor(temperature)).square()


def _divisor(temperature: float | Tensor) -> float | Tensor:
    """Return a temperature per row with an axis for the classes."""
    return temperature[..., None] if isinstance(temperature, Tensor) else temperature
