"""A student's distribution against a teacher's."""

from __future__ import annotations

from torch import Tensor

from kd_lightning.core.errors import ConfigError
from kd_lightning.core.types import Schedule
from kd_lightning.functional.logits import count_rows
from kd_lightning.functional.masking import count
from kd_lightning.functional.soft_targets import Kind, logit_mse, soft_target, soft_target_multilabel
from kd_lightning.losses.base import (
    Compat,
    DistillationLoss,
    check_choice,
    check_compat,
    check_positive,
    textbrewer_mask,
)
from kd_lightning.losses.temperature import SampleTemperature, scheduled_temperature


class SoftTarget(DistillationLoss):
    """T² · mean of KL(p_t ‖ p_s), p = softmax(z / T). Hinton et al. 2015 (1503.02531), section 2.

    T² keeps the gradients' size as T grows. A mean over samples, or over unmasked tokens; with start and end logits
    (B, L) and a mask of that shape, over samples, masked positions being left out of both softmaxes.

    Args:
        temperature: T, of the student, and of the teacher where it has none of its own.
        teacher_temperature: the teacher's own; the factor is then the product of the two.
        kind: "kl", or "ce" for the cross entropy −Σ p_t log p_s: the same gradient, larger by the teacher's entropy
            times T².
        compat: "textbrewer" gives its `ce`, which has no T² (smaller by exactly that factor) and takes no notice of a
            mask over start and end logits; needs `kind="ce"`.
        multilabel: one sigmoid per label instead of one softmax, and the mean over labels too.
        regression: logits are values and not of classes: their mean squared difference, which is this divergence of
            normal distributions around them, whatever the temperature and the kind.
        scaled: False leaves the factor T² out, as TextBrewer does.
        temperature_schedule: progress in [0, 1] → factor on both temperatures, as `schedules.Cosine()`: annealing.
        sample_temperature: makes a temperature for every row out of the logits and T, as `schedules.FLSW` does; T² is
            then each row's own. The mean it needs runs over this process's rows.

    Raises:
        ConfigError: options that are unknown or exclude each other.
        MatchError: shapes that do not belong together, or a single logit without `multilabel`.

    Example:
        >>> import torch
        >>> loss = SoftTarget(temperature=2.0)
        >>> loss(torch.zeros(1, 2), torch.tensor([[4.0, 0.0]]))
        tensor(1.3113)

    """

    equal_widths = True
    one_by_one = True

    def __init__(
        self,
        temperature: float = 1.0,
        teacher_temperature: float | None = None,
        kind: Kind = "kl",
        compat: Compat = None,
        multilabel: bool = False,
        temperature_schedule: Schedule | None = None,
        sample_temperature: SampleTemperature | None = None,
        regression: bool = False,
        scaled: bool = True,
    ) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        check_positive("teacher_temperature", teacher_temperature)
        check_choice("kind", kind, ("kl", "ce"))
        check_compat(compat)
        if regression and (multilabel or compat or sample_temperature is not None):
            raise ConfigError(
                "Values have no classes: regression=True goes without multilabel, compat and sample_temperature."
            )
        if compat and (kind != "ce" or multilabel):
            raise ConfigError('TextBrewer has the softmax cross entropy only: compat="textbrewer" needs kind="ce".')
        if sample_temperature is not None and (multilabel or teacher_temperature is not None):
            raise ConfigError("A temperature per sample is one for both models, and for softmaxes only.")
        self.temperature = temperature
        self.teacher_temperature = teacher_temperature
        self.kind: Kind = kind
        self.compat: Compat = compat
        self.multilabel = multilabel
        self.temperature_schedule = temperature_schedule
        self.sample_temperature = sample_temperature
        self.regression = regression
        self.scaled = scaled

    @property
    def widens(self) -> bool:  # type: ignore[override]
        """Whether all that looks at the logits widens them: this loss does, a temperature of the user's own may not."""
        return self.sample_temperature is None or bool(getattr(self.sample_temperature, "widens", False))

    @property
    def scheduled(self) -> bool:
        """Whether the temperature changes over training."""
        return self.temperature_schedule is not None

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, progress: float = 0.0) -> Tensor:
        """Compare logits (B, C), (B, L, C), or (B, L) over positions; mask (B, L); progress of training in [0, 1]."""
        if self.regression:
            return logit_mse(student, teacher, mask)
        mask = textbrewer_mask(self.compat, student, mask)
        t_s, t_t = self._temperatures(progress)
        if self.sample_temperature is not None:
            return self._by_sample(student, teacher, t_s, mask)
        function = soft_target_multilabel if self.multilabel else soft_target
        return self._square(t_s * t_t) * function(student, teacher, t_s, t_t, self.kind, mask)

    def _temperatures(self, progress: float) -> tuple[float, float]:
        t_s = scheduled_temperature(self.temperature, self.temperature_schedule, progress)
        if self.teacher_temperature is None:
            return t_s, t_s
        return t_s, scheduled_temperature(self.teacher_temperature, self.temperature_schedule, progress)

    def _by_sample(self, student: Tensor, teacher: Tensor, base: float, mask: Tensor | None) -> Tensor:
        assert self.sample_temperature is not None
        temperature = self.sample_temperature(student, teacher, base, mask)
        weight = None if self.compat or not self.scaled else temperature.square()
        return soft_target(student, teacher, temperature, None, self.kind, mask, weight)

    def _square(self, product: float) -> float:
        """Return the factor T²; TextBrewer has none."""
        return 1.0 if self.compat or not self.scaled else product

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, progress: float = 0.0) -> Tensor:
        """Return the number of samples or unmasked tokens."""
        mask = textbrewer_mask(self.compat, student, mask)
        if self.multilabel and mask is not None:
            return count(student, mask, student.shape)
        return count_rows(student, mask)
