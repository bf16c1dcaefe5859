"""How much each row of a batch counts in a term, by what both models make of it: WSLD, confidence, entropy, gap.

A rule is given to a term, `Term(..., sample_weight=Entropy())`, or by the command, `sample_weight=entropy` for the term
`logits`. Weights have no gradient. Probabilities are those at temperature 1, whatever the term's own temperature; of
tokens, a row's weight is the mean over its real ones.

Normalised weights have the mean 1 over all rows of all devices, so that the learning rate keeps its meaning. Without a
teacher's logits, or where a row has one number or several labels, only `Gap` has a meaning.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from kd_lightning.core.arguments import is_finite_number
from kd_lightning.core.errors import ConfigError, MatchError
from kd_lightning.functional.decoupled import cross_entropies, labelled_rows
from kd_lightning.functional.masking import blank, kl_divergence
from kd_lightning.functional.precision import widen
from kd_lightning.losses.options import check_choice
from kd_lightning.losses.weighted import EPS

__all__ = ["WSLD", "Confidence", "Entropy", "Gap", "SampleWeight"]


class SampleWeight(ABC):
    """Gives each row of a batch a weight, out of both models' logits and the labels.

    Args:
        normalize: whether weights are divided by their mean over all rows of all devices.
        address: of the logits, in both models.

    """

    needs_labels: ClassVar[bool] = False
    needs_classes: ClassVar[bool] = True
    """Whether the logits must be of one class per row."""
    compares: ClassVar[bool] = False
    """Whether a weight depends on how the two models differ."""

    def __init__(self, normalize: bool = True, address: str = "logits") -> None:
        self.normalize = normalize
        self.address = address

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"

    @abstractmethod
    def weigh(self, student: Tensor, teacher: Tensor, labels: Tensor | None, mask: Tensor | None) -> Tensor:
        """Return a weight for each row (B,), or for each token (B, L), not negative.

        Args:
            student: logits (B, C) or (B, L, C), in float32, without gradient.
            teacher: the same shape.
            labels: (B,) or (B, L), where `needs_labels`.
            mask: (B, L), which tokens are real.

        """

    @torch.no_grad()
    def __call__(
        self, student: Tensor, teacher: Tensor, labels: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the weight of each row, (B,), not yet normalised.

        Raises:
            MatchError: if the logits differ in shape, or a rule on classes gets one number per row.

        """
        name = type(self).__name__
        if student.shape != teacher.shape or student.dim() not in (2, 3):
            raise MatchError(
                f"{name} weighs rows by logits (B, C) or (B, L, C) of both models, but got {tuple(student.shape)} and "
                f"{tuple(teacher.shape)}."
            )
        if self.needs_classes and student.shape[-1] < 2:
            raise MatchError(f"{name} weighs rows by probabilities of classes, and these logits have one: use Gap.")
        found = self.weigh(widen(student), widen(teacher), labels, mask)
        if found.dim() == 1:
            return found
        real = torch.ones_like(found) if mask is None else mask.to(found.dtype)
        return (blank(found, mask) * real).sum(-1) / real.sum(-1).clamp(min=1)


class WSLD(SampleWeight):
    """w = 1 − exp(−CE_s / (CE_t + 1e-7)): a row counts as far as the student is worse at it than the teacher.

    Zhou et al. 2021 (2102.00650); unnormalised, as published, on `SoftTarget` it is `losses.WSLD`.

    Example:
        >>> z = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
        >>> WSLD()(z, z, torch.tensor([0, 0])).round(decimals=2)
        tensor([0.6300, 0.6300])

    """

    compares = True
    needs_labels = True

    def __init__(self, normalize: bool = False, address: str = "logits") -> None:
        super().__init__(normalize, address)

    def weigh(self, student: Tensor, teacher: Tensor, labels: Tensor | None, mask: Tensor | None) -> Tensor:
        """Return the weight of each row or token."""
        keep = labelled_rows("WSLD", student, teacher, labels, mask)
        own, target = (cross_entropies("WSLD", x, labels, keep) for x in (student, teacher))
        return 1 - torch.exp(-own / (target + EPS))


class Confidence(SampleWeight):
    """w = the teacher's largest probability, or that of the label: easy rows count more; `hard`: 1 − w.

    Args:
        of: `max`, the largest, or `label`.
        hard: whether rows count more where the teacher is unsure.
        normalize: whether weights are divided by their mean over all rows of all devices.
        address: of the logits, in both models.

    Raises:
        ConfigError: if `of` is neither.

    Example:
        >>> z = torch.tensor([[0.0, 0.0]])
        >>> Confidence()(z, z), Confidence(hard=True)(z, z)
        (tensor([0.5000]), tensor([0.5000]))

    """

    def __init__(
        self,
        of: Literal["max", "label"] = "max",
        hard: bool = False,
        normalize: bool = True,
        address: str = "logits",
    ) -> None:
        super().__init__(normalize, address)
        check_choice("of", of, ("max", "label"))
        self.of, self.hard = of, hard
        self.needs_labels = of == "label"  # type: ignore[misc]

    def weigh(self, student: Tensor, teacher: Tensor, labels: Tensor | None, mask: Tensor | None) -> Tensor:
        """Return the weight of each row or token."""
        if self.of == "label":
            keep = labelled_rows("Confidence", student, teacher, labels, mask)
            found = torch.exp(-cross_entropies("Confidence", teacher, labels, keep))
        else:
            found = blank(teacher, mask).softmax(-1).amax(-1)
        return 1 - found if self.hard else found


class Entropy(SampleWeight):
    """w = 1 − H(p_t) / log C: rows of which the teacher is sure count more; `hard`: H(p_t) / log C.

    Args:
        hard: whether rows count more where the teacher is unsure.
        normalize: whether weights are divided by their mean over all rows of all devices.
        address: of the logits, in both models.

    Example:
        >>> z = torch.tensor([[0.0, 0.0]])
        >>> Entropy(hard=True)(z, z)
        tensor([1.])

    """

    def __init__(self, hard: bool = False, normalize: bool = True, address: str = "logits") -> None:
        super().__init__(normalize, address)
        self.hard = hard

    def weigh(self, student: Tensor, teacher: Tensor, labels: Tensor | None, mask: Tensor | None) -> Tensor:
        """Return the weight of each row or token."""
        relative = relative_entropy(blank(teacher, mask))
        return relative if self.hard else 1 - relative


class Gap(SampleWeight):
    """w = d^γ, d how far the student is from the teacher: rows that it has not yet count more; `hard=False`: e^−γd.

    d is KL(p_t ‖ p_s) of classes, of several labels its mean over Bernoulli probabilities, of numbers the squared
    difference. γ = 0 weighs all rows alike.

    Args:
        gamma: γ, not negative.
        hard: whether rows count more where the gap is large.
        kind: of the logits: `classes`, `labels` (several per row), or `values`.
        normalize: whether weights are divided by their mean over all rows of all devices.
        address: of the logits, in both models.

    Raises:
        ConfigError: if `gamma` is negative, or `kind` is none of these.

    Example:
        >>> Gap()(torch.zeros(1, 2), torch.zeros(1, 2))
        tensor([0.])

    """

    compares = True
    needs_classes = False

    def __init__(
        self,
        gamma: float = 1.0,
        hard: bool = True,
        kind: Literal["classes", "labels", "values"] = "classes",
        normalize: bool = True,
        address: str = "logits",
    ) -> None:
        super().__init__(normalize, address)
        if not is_finite_number(gamma) or gamma < 0:
            raise ConfigError(f"Expected argument `gamma` of Gap not to be negative but got {gamma!r}.")
        check_choice("kind", kind, ("classes", "labels", "values"))
        self.gamma, self.hard, self.kind = gamma, hard, kind

    def weigh(self, student: Tensor, teacher: Tensor, labels: Tensor | None, mask: Tensor | None) -> Tensor:
        """Return the weight of each row or token."""
        own, target = blank(student, mask), blank(teacher, mask)
        if self.kind == "values":
            gap = (own - target).square().mean(-1)
        elif self.kind == "labels":
            p = target.sigmoid()
            gap = (binary_cross_entropy_with_logits(own, p, reduction="none")
                   - binary_cross_entropy_with_logits(target, p, reduction="none")).mean(-1)  # fmt: skip
        else:
            if student.shape[-1] < 2:
                raise MatchError("Gap of classes got one logit per row, whose softmax is always 1: take kind='values'.")
            log_p = target.log_softmax(-1)
            gap = kl_divergence(log_p.exp(), log_p, own.log_softmax(-1))
        gap = gap.clamp(min=0)  # rounding
        return gap**self.gamma if self.hard else torch.exp(-self.gamma * gap)


def relative_entropy(logits: Tensor) -> Tensor:
    """Return H(p) / log C of softmaxes over the last axis: 0 of a sure one, 1 of a uniform one.

    Example:
        >>> relative_entropy(torch.zeros(1, 4))
        tensor([1.])

    """
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1) / math.log(logits.shape[-1])
