"""The losses of TextBrewer 0.2.1 where it computes something else than ours; the others are ours.

It looks at no mask over start and end logits and leaves T² out. Where it gets no mask, it judges by its value (at most
−1e-3) whether an entry of an attention map is padding.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from kd_lightning import losses
from kd_lightning.core.types import Schedule
from kd_lightning.functional.attention import Heads, attention_mse, check_maps, largest, mean_over_heads, reduce_heads
from kd_lightning.functional.chunks import chunked_mean
from kd_lightning.functional.hidden import LayerPair, nst, pkd
from kd_lightning.functional.logits import logit_mse
from kd_lightning.functional.masking import blank, count, cross_entropy
from kd_lightning.functional.precision import widen
from kd_lightning.losses.soft_target import SampleTemperature, TemperatureLoss

PADDING_SCORE = -1e-3
"""Without a mask, entries of attention maps up to this value are taken for padding."""


class SoftCrossEntropy(losses.SoftCrossEntropy):
    """TextBrewer's `ce`: mean of −Σ p_t log p_s, p = softmax(z / T), without T². A mask over (B, L) logits is not used.

    T² times smaller than `losses.SoftCrossEntropy(T)`, which is the same with `scaled=False` where no mask covers
    positions.

    Args:
        temperature: T.
        teacher_temperature: the teacher's own.
        temperature_schedule: progress in [0, 1] → factor on both temperatures.
        sample_temperature: makes a temperature for every row, as `schedules.FLSW` does.

    Raises:
        ConfigError: if a temperature is not positive, or `sample_temperature` is given with `teacher_temperature`.
        MatchError: if the logits' shapes differ, or there is one class only.

    Example:
        >>> import torch
        >>> SoftCrossEntropy(temperature=2.0)(torch.zeros(1, 2), torch.tensor([[4.0, 0.0]]))
        tensor(0.6931)

    """

    def __init__(
        self,
        temperature: float = 1.0,
        teacher_temperature: float | None = None,
        temperature_schedule: Schedule | None = None,
        sample_temperature: SampleTemperature | None = None,
    ) -> None:
        super().__init__(temperature, teacher_temperature, temperature_schedule, sample_temperature, scaled=False)

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, progress: float = 0.0) -> Tensor:
        """Compare logits (B, C), (B, L, C), or (B, L) over positions; mask (B, L); progress of training in [0, 1]."""
        return super().forward(student, teacher, _token_mask(student, mask), progress)

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, progress: float = 0.0) -> Tensor:
        """Return the number of samples or unmasked tokens."""
        return super().count(student, teacher, _token_mask(student, mask), progress)


class LogitMSE(TemperatureLoss):
    """TextBrewer's `mse`: mean of ((z_s − z_t) / T)², T² times smaller than `losses.LogitMSE`.

    A mask over (B, L) logits is not used.

    Args:
        temperature: T.
        temperature_schedule: progress in [0, 1] → factor on the temperature.
        sample_temperature: makes a temperature for every row, as `schedules.FLSW` does.

    Raises:
        ConfigError: if the temperature is not positive.
        MatchError: if the logits' shapes differ.

    Example:
        >>> import torch
        >>> LogitMSE(temperature=2.0)(torch.tensor([[2.0, 4.0]]), torch.zeros(1, 2))
        tensor(2.5000)

    """

    def __init__(
        self,
        temperature: float = 1.0,
        temperature_schedule: Schedule | None = None,
        sample_temperature: SampleTemperature | None = None,
    ) -> None:
        super().__init__(temperature, None, temperature_schedule, sample_temperature)

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, progress: float = 0.0) -> Tensor:
        """Compare logits (B, C), (B, L, C), or (B, L) over positions; mask (B, L); progress of training in [0, 1]."""
        mask = _token_mask(student, mask)
        base, _ = self.temperatures(progress)
        per_row = self.row_temperature(student, teacher, base, mask)
        return logit_mse(student, teacher, mask, base if per_row is None else per_row)

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, progress: float = 0.0) -> Tensor:
        """Return the number of samples or unmasked tokens."""
        return count(student, _token_mask(student, mask), student.shape[:-1])


class ProbabilityShift(losses.ProbabilityShift):
    """TextBrewer's `probability_shift`: as ours, but a mask over (B, L) logits is not used, as by its losses.

    Args:
        loss: `SoftCrossEntropy` or `LogitMSE` of this module.

    Raises:
        ConfigError: if `loss` cannot be called.
        MatchError: if there are no labels, or they do not have the logits' shape without its last axis.

    Example:
        >>> import torch
        >>> loss = ProbabilityShift(LogitMSE())
        >>> loss(torch.tensor([[0.0, 4.0]]), torch.tensor([[4.0, 0.0]]), labels=torch.tensor([1]))
        tensor(0.)

    """

    def forward(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, labels: Tensor | None = None, **given: Any
    ) -> Tensor:
        """Compare logits (B, C), (B, L, C), or (B, L) over positions, under the labels of their rows; mask (B, L)."""
        return super().forward(student, teacher, _token_mask(teacher, mask), labels, **given)


class PKD(losses.PKD):
    """TextBrewer's `pkd`: position 0 whatever the mask; the same as `losses.PKD` unless padding is on the left.

    Raises:
        MatchError: if shapes differ.

    Example:
        >>> import torch
        >>> PKD()(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]]), torch.tensor([[0]]))
        tensor(2.)

    """

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare hidden states (B, L, D), or vectors (B, D) of a token already chosen."""
        return pkd(student, teacher)

    def count(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the number of samples."""
        return super().count(student, teacher)


class NST(losses.NST):
    """TextBrewer's `nst` (`mmd`): without a mask the same as `losses.NST`; with one it divides by L, not by widths.

    L is the padded length, so the value changes with the padding: D²/L² of ours where D_s = D_t = D.

    Raises:
        MatchError: if a side is not a pair of layers, or shapes differ where they may not.

    Example:
        >>> import torch
        >>> one = torch.ones(1, 2, 4)
        >>> NST()((one, one), (0 * one, 0 * one), torch.ones(1, 2))
        tensor(4.)

    """

    def forward(self, student: LayerPair, teacher: LayerPair, mask: Tensor | None = None) -> Tensor:
        """Compare pairs of hidden states (B, L, D_s) with pairs (B, L, D_t); mask (B, L)."""
        return nst(student, teacher, mask, divide_by="width" if mask is None else "length")


class AttentionMSE(losses.AttentionMSE):
    """TextBrewer's `attention_mse`: as ours with a mask; without one, entries ≤ −1e-3 become zero in both maps.

    That is right for scores with a padding of −10000, and wrong for scores without padding.

    Raises:
        MatchError: if head counts or lengths differ.

    Example:
        >>> import torch
        >>> AttentionMSE()(-torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
        tensor(1.)

    """

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare attention (B, H, L, L); mask (B, L)."""
        return _attention_mse(student, teacher, mask, self.heads)


class AttentionMSESum(losses.AttentionMSESum):
    """TextBrewer's `attention_mse_sum`: as ours with a mask; without one, sums over heads ≤ −1e-3 become zero.

    Raises:
        MatchError: if lengths differ.

    Example:
        >>> import torch
        >>> AttentionMSESum()(-torch.ones(1, 2, 2, 2), torch.ones(1, 2, 2, 2))
        tensor(4.)

    """

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare attention (B, H, L, L); mask (B, L)."""
        return _attention_mse(student, teacher, mask, self.heads)


class AttentionCE(losses.AttentionCE):
    """TextBrewer's `attention_ce`: −Σ_j softmax(teacher)_j log softmax(student)_j, a softmax of whatever it is given.

    Masked keys stay in both denominators. Without a mask, keys where the teacher's entry is ≤ −1e-3 are left out of the
    sum. On scores without padding it is `losses.AttentionCE(inputs="scores")`, if no entry of the teacher is that
    small; else there is no fixed ratio.

    Raises:
        MatchError: if head counts or lengths differ.

    Example:
        >>> import torch
        >>> AttentionCE()(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))
        tensor(0.6931)

    """

    def __init__(self) -> None:
        super().__init__(inputs="scores")

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare attention (B, H, L, L); mask (B, L)."""
        return _attention_ce(student, teacher, mask, self.heads)


class AttentionCEMean(losses.AttentionCEMean):
    """TextBrewer's `attention_ce_mean`: the mean over heads first, then as in `AttentionCE`; head counts may differ.

    Raises:
        MatchError: if lengths differ.

    Example:
        >>> import torch
        >>> AttentionCEMean()(torch.zeros(1, 1, 2, 2), torch.zeros(1, 3, 2, 2))
        tensor(0.6931)

    """

    def __init__(self) -> None:
        super().__init__(inputs="scores")

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare attention (B, H, L, L); mask (B, L)."""
        return _attention_ce(student, teacher, mask, self.heads)


def _token_mask(logits: Tensor, mask: Tensor | None) -> Tensor | None:
    """Return the mask over logits; TextBrewer has none for two-dimensional ones."""
    return None if logits.dim() == 2 else mask


def _attention_mse(student: Tensor, teacher: Tensor, mask: Tensor | None, heads: Heads) -> Tensor:
    if mask is not None:
        return attention_mse(student, teacher, mask, heads)
    check_maps("AttentionMSE", student, teacher, mask, heads)
    return chunked_mean(partial(_squares, heads), (student, teacher.detach()), None, largest(student, teacher))


def _squares(heads: Heads, student: Tensor, teacher: Tensor) -> Tensor:
    """Return one value per pair of tokens."""
    student, teacher = (reduce_heads(widen(maps), heads) for maps in (student, teacher))
    student, teacher = (maps.masked_fill(maps <= PADDING_SCORE, 0.0) for maps in (student, teacher))
    return reduce_heads((student - teacher).square(), "mean")


def _attention_ce(student: Tensor, teacher: Tensor, mask: Tensor | None, heads: Heads) -> Tensor:
    check_maps("AttentionCE", student, teacher, mask, heads)
    inputs = (student, teacher.detach(), mask)
    return chunked_mean(partial(_cross_entropy, heads), inputs, mask, largest(student, teacher))


def _cross_entropy(heads: Heads, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """Return one value per query."""
    student, teacher = reduce_heads(widen(student), heads), reduce_heads(widen(teacher), heads)
    p = teacher.softmax(-1)
    if mask is None:
        p = p.masked_fill(teacher <= PADDING_SCORE, 0.0)
    else:
        keys = mask.bool().reshape(mask.shape[0], *([1] * (p.dim() - 2)), mask.shape[1])
        p = blank(p, keys)
    return mean_over_heads(cross_entropy(p, student.log_softmax(-1)))
