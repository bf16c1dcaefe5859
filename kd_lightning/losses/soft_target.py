"""A student's logits against a teacher's: divergences of softened distributions, and the squared error.

To use one of these where another stands, they take the same options as far as they have a meaning: `temperature` and
`scaled` do nothing to a squared error, but it accepts them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias

from torch import Tensor

from kd_lightning.core.errors import ConfigError
from kd_lightning.core.types import Schedule
from kd_lightning.functional.logits import Divergence, count_rows, logit_mse, soft_labels, soft_target
from kd_lightning.functional.masking import count
from kd_lightning.functional.precision import widen, widen_for
from kd_lightning.losses.base import DistillationLoss
from kd_lightning.losses.options import check_positive, refuse_removed

SampleTemperature: TypeAlias = Callable[[Tensor, Tensor, float, Tensor | None], Tensor]
"""(student's logits, teacher's logits, base temperature, mask) → one temperature per row.

Logits come in at least float32; one with an attribute `widens` that is true gets them as the models made them.
"""


class TemperatureLoss(DistillationLoss):
    """Base of the losses on logits that are divided by a temperature: which temperature holds at a step.

    Args:
        temperature: T, of the student, and of the teacher where it has none of its own.
        teacher_temperature: the teacher's own.
        temperature_schedule: progress in [0, 1] → factor on both temperatures.
        sample_temperature: makes a temperature for every row out of the logits and T; the same for both models.

    Raises:
        ConfigError: if a temperature is not positive, or `sample_temperature` is given with `teacher_temperature`.

    """

    equal_widths = True
    per_address = True
    widens = True
    removed: ClassVar[Mapping[str, str]] = {}
    """Arguments of earlier versions, and what to use instead."""

    def __init__(
        self,
        temperature: float = 1.0,
        teacher_temperature: float | None = None,
        temperature_schedule: Schedule | None = None,
        sample_temperature: SampleTemperature | None = None,
        **removed: Any,
    ) -> None:
        refuse_removed(type(self), removed, self.removed)
        super().__init__()
        check_positive("temperature", temperature)
        check_positive("teacher_temperature", teacher_temperature)
        if sample_temperature is not None and teacher_temperature is not None:
            raise ConfigError("sample_temperature is one temperature for both models: leave teacher_temperature out.")
        self.temperature = temperature
        self.teacher_temperature = teacher_temperature
        self.temperature_schedule = temperature_schedule
        self.sample_temperature = sample_temperature
        self.scheduled = temperature_schedule is not None

    def temperatures(self, progress: float) -> tuple[float, float]:
        """Return the student's and the teacher's temperature, before any of a row's own.

        Raises:
            ConfigError: if the schedule makes a temperature that is not positive.

        """
        factor = 1.0 if self.temperature_schedule is None else self.temperature_schedule(progress)
        student = self.temperature * factor
        teacher = student if self.teacher_temperature is None else self.teacher_temperature * factor
        if not min(student, teacher) > 0:
            raise ConfigError(f"The schedule {self.temperature_schedule!r} makes a temperature of {student}.")
        return student, teacher

    def row_temperature(self, student: Tensor, teacher: Tensor, base: float, mask: Tensor | None) -> Tensor | None:
        """Return one temperature per row, or None where all rows have the same."""
        if self.sample_temperature is None:
            return None
        if not getattr(self.sample_temperature, "widens", False):
            student, teacher = widen(student), widen(teacher)
        return widen_for(base, self.sample_temperature(student, teacher, base, mask))


class _SoftmaxLoss(TemperatureLoss):
    """T² · mean of a divergence between the rows' softmaxes."""

    divergence: ClassVar[Divergence]
    scaled: bool = True

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, progress: float = 0.0) -> Tensor:
        """Compare logits (B, C), (B, L, C), or (B, L) over positions; mask (B, L); progress of training in [0, 1]."""
        t_s, t_t = self.temperatures(progress)
        per_row = self.row_temperature(student, teacher, t_s, mask)
        if per_row is not None:  # each row's own square is its weight in the mean
            square = per_row.square() if self.scaled else None
            return soft_target(student, teacher, per_row, None, self.divergence, mask, square)
        factor = t_s * t_t if self.scaled else 1.0
        return factor * soft_target(student, teacher, t_s, t_t, self.divergence, mask)

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, progress: float = 0.0) -> Tensor:
        """Return the number of samples or unmasked tokens."""
        return count_rows(student, mask)


class SoftTarget(_SoftmaxLoss):
    """T² · mean of KL(p_t ‖ p_s), p = softmax(z / T). Hinton et al. 2015 (1503.02531), section 2.

    T² keeps the gradients' size as T grows. A mean over samples, or over unmasked tokens; with start and end logits
    (B, L) and a mask of that shape, over samples, masked positions being left out of both softmaxes.

    Args:
        temperature: T, of the student, and of the teacher where it has none of its own.
        teacher_temperature: the teacher's own; the factor is then the product of the two.
        temperature_schedule: progress in [0, 1] → factor on both temperatures, as `schedules.Cosine()`: annealing.
        sample_temperature: makes a temperature for every row out of the logits and T, as `schedules.FLSW` does; T² is
            then each row's own. The mean it needs runs over this process's rows.

    Raises:
        ConfigError: if a temperature is not positive, or `sample_temperature` is given with `teacher_temperature`.
        MatchError: if the logits' shapes differ, the mask fits neither rows nor positions, or there is one class only.

    Example:
        >>> import torch
        >>> loss = SoftTarget(temperature=2.0)
        >>> loss(torch.zeros(1, 2), torch.tensor([[4.0, 0.0]]))
        tensor(1.3113)

    """

    divergence = "kl"
    removed: ClassVar = {
        "kind": "kd.losses.SoftCrossEntropy for the cross entropy; SoftTarget is the KL divergence",
        "scaled": "kd.losses.SoftCrossEntropy(scaled=False), the same gradient without T²",
        "multilabel": "kd.losses.SoftLabels where each label is 0 or 1",
        "regression": "kd.losses.LogitMSE where logits are numbers",
        "compat": "kd.compat.textbrewer.SoftCrossEntropy",
    }


class SoftCrossEntropy(_SoftmaxLoss):
    """T² · mean of −Σ p_t log p_s, p = softmax(z / T): `SoftTarget` plus T² times the teacher's entropy.

    The gradient is that of `SoftTarget`. Means, masks and options are those of `SoftTarget` too.

    Args:
        temperature: T, of the student, and of the teacher where it has none of its own.
        teacher_temperature: the teacher's own; the factor is then the product of the two.
        temperature_schedule: progress in [0, 1] → factor on both temperatures.
        sample_temperature: makes a temperature for every row out of the logits and T, as `schedules.FLSW` does.
        scaled: False leaves T² out, as TextBrewer does: smaller by exactly that factor.

    Raises:
        ConfigError: if a temperature is not positive, or `sample_temperature` is given with `teacher_temperature`.
        MatchError: if the logits' shapes differ, the mask fits neither rows nor positions, or there is one class only.

    Example:
        >>> import torch
        >>> SoftCrossEntropy(temperature=2.0)(torch.zeros(1, 2), torch.tensor([[4.0, 0.0]]))
        tensor(2.7726)

    """

    divergence = "ce"

    def __init__(
        self,
        temperature: float = 1.0,
        teacher_temperature: float | None = None,
        temperature_schedule: Schedule | None = None,
        sample_temperature: SampleTemperature | None = None,
        scaled: bool = True,
    ) -> None:
        super().__init__(temperature, teacher_temperature, temperature_schedule, sample_temperature)
        self.scaled = scaled


class SoftLabels(TemperatureLoss):
    """T² · mean over rows and labels of the Bernoulli KL of sigmoid(z / T): every label is one of yes or no.

    Args:
        temperature: T, of the student, and of the teacher where it has none of its own.
        teacher_temperature: the teacher's own; the factor is then the product of the two.
        temperature_schedule: progress in [0, 1] → factor on both temperatures.
        scaled: False leaves T² out.

    Raises:
        ConfigError: if a temperature is not positive.
        MatchError: if the logits' shapes differ, or the mask fits neither rows nor entries.

    Example:
        >>> import torch
        >>> SoftLabels(temperature=2.0)(torch.zeros(1, 2), torch.tensor([[4.0, 0.0]]))
        tensor(0.6556)

    """

    def __init__(
        self,
        temperature: float = 1.0,
        teacher_temperature: float | None = None,
        temperature_schedule: Schedule | None = None,
        scaled: bool = True,
    ) -> None:
        super().__init__(temperature, teacher_temperature, temperature_schedule)
        self.scaled = scaled

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, progress: float = 0.0) -> Tensor:
        """Compare logits (B, C) or (B, L, C); mask (B, L), or of the logits' shape; progress of training in [0, 1]."""
        t_s, t_t = self.temperatures(progress)
        return (t_s * t_t if self.scaled else 1.0) * soft_labels(student, teacher, t_s, t_t, mask)

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, progress: float = 0.0) -> Tensor:
        """Return the number of samples, unmasked tokens or unmasked labels."""
        return count(student, mask, student.shape[:-1])


class LogitMSE(DistillationLoss):
    """Mean of (z_s − z_t)² over samples or unmasked tokens, and over classes; for numbers, of their differences.

    For start and end logits (B, L) with a mask of that shape: over unmasked positions.

    Args:
        temperature: has no effect: T² · mean of ((z_s − z_t) / T)² does not depend on T. It is accepted so that this
            loss can stand where a soft-target loss does.
        scaled: has no effect, and is accepted for the same reason.

    Raises:
        ConfigError: if the temperature is not positive.
        MatchError: if the logits' shapes differ, or the mask fits neither rows nor positions.

    Example:
        >>> import torch
        >>> LogitMSE()(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2))
        tensor(5.)

    """

    equal_widths = True
    per_address = True
    widens = True

    def __init__(self, temperature: float = 1.0, scaled: bool = True, **removed: Any) -> None:
        theirs = "kd.compat.textbrewer.LogitMSE, which divides by the temperature"
        names = ("compat", "temperature_schedule", "sample_temperature")
        refuse_removed(type(self), removed, dict.fromkeys(names, theirs))
        super().__init__()
        check_positive("temperature", temperature)
        self.temperature = temperature
        self.scaled = scaled

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare logits (B, C), (B, L, C), or (B, L) over positions; mask (B, L)."""
        return logit_mse(student, teacher, mask)

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the number of samples, unmasked tokens or unmasked positions."""
        return count(student, mask, student.shape[:-1])
