"""Losses on a student's and a teacher's logits."""

from __future__ import annotations

from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.functional.logits import count_rows
from kd_lightning.functional.masking import count
from kd_lightning.functional.soft_targets import Kind, logit_mse, soft_target, soft_target_multilabel
from kd_lightning.losses.base import Compat, DistillationLoss, check_choice, check_compat, check_positive


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

    Raises:
        ConfigError: options that are unknown or exclude each other.
        MatchError: shapes that do not belong together.

    Example:
        >>> import torch
        >>> loss = SoftTarget(temperature=2.0)
        >>> loss(torch.zeros(1, 2), torch.tensor([[4.0, 0.0]]))
        tensor(1.3113)

    """

    equal_widths = True

    def __init__(
        self,
        temperature: float = 1.0,
        teacher_temperature: float | None = None,
        kind: Kind = "kl",
        compat: Compat = None,
        multilabel: bool = False,
    ) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        check_positive("teacher_temperature", teacher_temperature)
        check_choice("kind", kind, ("kl", "ce"))
        check_compat(compat)
        if compat and (kind != "ce" or multilabel):
            raise ConfigError('TextBrewer has the softmax cross entropy only: compat="textbrewer" needs kind="ce".')
        self.temperature = temperature
        self.teacher_temperature = teacher_temperature
        self.kind: Kind = kind
        self.compat: Compat = compat
        self.multilabel = multilabel

    @property
    def factor(self) -> float:
        """The product of the two temperatures; 1 under `compat`."""
        return 1.0 if self.compat else self.temperature * (self.teacher_temperature or self.temperature)

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare logits (B, C), (B, L, C), or (B, L) over positions; mask (B, L)."""
        function = soft_target_multilabel if self.multilabel else soft_target
        mask = _used(self.compat, student, mask)
        loss = function(student, teacher, self.temperature, self.teacher_temperature, self.kind, mask)
        return self.factor * loss

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the number of samples or unmasked tokens."""
        mask = _used(self.compat, student, mask)
        if self.multilabel and mask is not None:
            return count(student, mask, student.shape)
        return count_rows(student, mask)


class LogitMSE(DistillationLoss):
    """Mean of (z_s − z_t)² over samples or unmasked tokens, and over classes.

    For start and end logits (B, L) with a mask of that shape: over unmasked positions.

    Args:
        temperature: only with `compat`; without, T² · mean of ((z_s − z_t) / T)² would not depend on it.
        compat: "textbrewer" gives its `mse`, which divides both logits by T (smaller by T²) and takes no notice
            of a mask over start and end logits.

    Raises:
        ConfigError: an unknown `compat`, or a temperature without it.
        MatchError: shapes that do not belong together.

    Example:
        >>> import torch
        >>> LogitMSE()(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2))
        tensor(5.)

    """

    equal_widths = True

    def __init__(self, temperature: float = 1.0, compat: Compat = None) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        check_compat(compat)
        if temperature != 1.0 and compat is None:
            raise ConfigError(
                f"Expected argument `temperature` to be 1.0 but got {temperature!r}: LogitMSE does not depend on it "
                f'unless compat="textbrewer".'
            )
        self.temperature = temperature
        self.compat: Compat = compat

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare logits (B, C), (B, L, C), or (B, L) over positions; mask (B, L)."""
        return logit_mse(student, teacher, _used(self.compat, student, mask)) / self.temperature**2

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the number of samples, unmasked tokens or unmasked positions."""
        mask = _used(self.compat, student, mask)
        return count(student, mask, student.shape[:-1])


def _used(compat: Compat, logits: Tensor, mask: Tensor | None) -> Tensor | None:
    """Return the mask; TextBrewer has none for two-dimensional logits."""
    return None if compat and logits.dim() == 2 else mask
