"""What every loss is: a module that compares a student's tensor with a teacher's and knows no layer name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from kd_lightning.core.errors import ConfigError, MatchError
from kd_lightning.core.types import FeatureInfo, Kind, RowInfo
from kd_lightning.functional.shapes import ONE_FEATURE, one_feature

ARGUMENTS = ("mask", "labels", "batch", "progress", "sample_id", "seed")
"""What a loss may name in its `forward`, after the student's and the teacher's tensor, and is then given.

`mask` (B, L): which tokens count, None where all do; `labels`: the batch's labels of the student's output; `batch`: the
whole batch; `progress`: share of training done, in [0, 1]; `sample_id` (B,): the batch's field; `seed`: an integer for
random choices, another in each training step and the same on all ranks, 0 where the caller of the objective gives none.
A field that the batch does not have is None.
"""


class DistillationLoss(nn.Module):
    """Base of the losses. A subclass writes `forward(student, teacher)`; all else has a default.

    The common contract of our own: the teacher is detached, everything is computed in at least float32, the result is a
    scalar, garbage under the mask changes neither value nor gradient, and an empty mask gives a differentiable zero.

    `forward` gets the student's and the teacher's tensor, each a tuple of tensors where a match names several
    addresses, and by name what it has an argument for: any of `mask`, `labels`, `batch`, `progress`, `sample_id`,
    `seed` (`losses.base.ARGUMENTS`).

    Example:
        >>> import torch
        >>> class Absolute(DistillationLoss):
        ...     equal_widths = True
        ...     def forward(self, student, teacher):
        ...         return (student - teacher.detach()).abs().mean()
        >>> Absolute()(torch.ones(2), torch.zeros(2))
        tensor(1.)

    """

    equal_widths: bool = False
    """Whether the student's and the teacher's widths must agree, so that others need a projection."""

    per_address: bool = False
    """Whether each pair of several addresses is compared by itself, and the mean over all is the loss (logits); False:
    `forward` gets all of them at once (FSP, NST)."""

    widens: bool = False
    """Whether `forward` converts what it is given to float32 by itself; if not, a term gives it float32 copies."""

    scheduled: bool | None = None
    """Whether the value depends on `progress`. None: if `forward` has an argument of that name."""

    paired: bool = False
    """Whether `forward` gets all features of both sides at once, and the first of the one belongs to the first of the
    other, and so on: maps are then brought to one size pair by pair."""

    needs_classes: bool = False
    """Whether each row must have one class, so that mixed labels are refused before a training begins."""

    gather: bool = False
    """Whether rows of a batch are compared with one another, so that several devices gather the rows of all: the value,
    and the gradient after averaging, are then those of one device with the joint batch."""

    teacher_state: tuple[str, ...] = ()
    """What the loss asks of the teacher's weights at each of its addresses, for a cache to keep: names of
    `kd_lightning.features.state`."""

    def bind(self, student: tuple[FeatureInfo, ...], teacher: tuple[FeatureInfo, ...]) -> None:
        """Prepare for two models, before the optimizer exists: a loss may build `nn.Module`s from the widths.

        Called once per objective, by `Term.bind`. Does nothing by default. Where it has a third argument, named `rows`,
        that is the `RowInfo` of all training rows.

        Args:
            student: what is known of each of the student's features, in the order of the match; behind a projection,
                with the width that it gives.
            teacher: likewise; fields of the batch, such as `labels`, are left out.

        """

    @property
    def diagnostics(self) -> Mapping[str, Tensor]:
        """What is worth watching of the last batch, scalars by name; logged as `train/<term>/<name>`."""
        return {}

    def count(self, *args: Any, **kwargs: Any) -> Tensor | None:
        """Return how many things the mean of `forward` runs over, for the very arguments that `forward` gets.

        A float scalar, right up to a constant factor: the value over a batch is then the count-weighted mean of the
        values over its parts, which is how means become exact over several devices. None: not such a mean.
        """
        return None

    def extra_repr(self) -> str:
        """Show the options that were given."""
        hidden = (
            "training",
            "equal_widths",
            "per_address",
            "widens",
            "scheduled",
            "paired",
            "needs_classes",
            "teacher_state",
        )
        own = {k: v for k, v in vars(self).items() if not k.startswith("_") and k not in hidden}
        if own.get("gather") == type(self).gather:
            own.pop("gather")
        return ", ".join(f"{k}={v!r}" for k, v in own.items() if v is not None and not isinstance(v, LossTraits))


class OneFeatureLoss(DistillationLoss):
    """Base of losses that compare one feature with one: other matches are refused before the first step.

    Example:
        >>> class Absolute(OneFeatureLoss):
        ...     refuses = {"map": "use HiddenMSE"}
        >>> Absolute().bind((FeatureInfo("map", 8),), (FeatureInfo("map", 8),))
        Traceback (most recent call last):
        kd_lightning.core.errors.MatchError: Absolute does not compare features of kind 'map': use HiddenMSE.

    """

    refuses: ClassVar[Mapping[Kind, str]] = {}
    """Kinds of features that have no meaning for the loss, and what to use for them."""

    def bind(self, student: tuple[FeatureInfo, ...], teacher: tuple[FeatureInfo, ...]) -> None:
        """Check that each side has one feature, of a kind that the loss compares.

        Raises:
            MatchError: if it has several, or one of another kind.

        """
        name = type(self).__name__
        if len(student) > 1 or len(teacher) > 1:
            raise MatchError(ONE_FEATURE.format(loss=name))
        for info in (*student, *teacher):
            if info.kind is not None and info.kind in self.refuses:
                raise MatchError(f"{name} does not compare features of kind '{info.kind}': {self.refuses[info.kind]}.")


@dataclass(frozen=True)
class LossTraits:
    """What a caller must know of a loss, whatever it is; see the attributes of `DistillationLoss`."""

    arguments: tuple[str, ...]
    equal_widths: bool = False
    per_address: bool = False
    widens: bool = False
    scheduled: bool = False
    elementwise: bool = False
    """Whether it is one of PyTorch's losses that broadcast tensors of unequal shapes."""
    paired: bool = False
    needs_classes: bool = False
    gather: bool = False
    needs_rows: bool = False
    """Whether its `bind` has an argument `rows`."""
    teacher_state: tuple[str, ...] = ()

    @classmethod
    def of(cls, loss: Callable[..., Tensor]) -> LossTraits:
        """Return the traits of a loss; any callable that is no `DistillationLoss` has the defaults.

        Example:
            >>> LossTraits.of(lambda student, teacher, mask: student.sum()).arguments
            ('mask',)

        """
        arguments = _arguments_of(loss)
        if not isinstance(loss, DistillationLoss):
            return cls(arguments, scheduled="progress" in arguments, elementwise=_broadcasts(loss))
        scheduled = "progress" in arguments if loss.scheduled is None else loss.scheduled
        return cls(
            arguments,
            loss.equal_widths,
            loss.per_address,
            loss.widens,
            scheduled,
            paired=loss.paired,
            needs_classes=loss.needs_classes,
            gather=loss.gather,
            needs_rows=_needs_rows(loss),
            teacher_state=(loss.teacher_state,) if isinstance(loss.teacher_state, str) else tuple(loss.teacher_state),
        )


def _needs_rows(loss: DistillationLoss) -> bool:
    if isinstance(loss, WrappedLoss):
        return loss.inner.needs_rows
    return "rows" in inspect.signature(loss.bind).parameters


_ELEMENTWISE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)
_FUNCTIONS = (functional.mse_loss, functional.l1_loss, functional.smooth_l1_loss, functional.huber_loss)


def _broadcasts(loss: Callable[..., Tensor]) -> bool:
    function = loss.func if isinstance(loss, partial) else loss
    return isinstance(function, _ELEMENTWISE) or function in _FUNCTIONS


def check_elementwise(loss: object, student: Any, teacher: Any) -> None:
    """Check that two tensors have one shape, before a loss of PyTorch's that would broadcast them.

    Raises:
        MatchError: if their shapes differ, or a side has several features.

    Example:
        >>> import torch
        >>> check_elementwise(nn.MSELoss(), torch.zeros(4, 3), torch.zeros(4, 3))

    """
    name = getattr(loss, "__name__", type(loss).__name__)
    one_feature(name, student, teacher)
    if student.shape != teacher.shape:
        raise MatchError(
            f"{name} needs equal shapes but got {tuple(student.shape)} from the student and {tuple(teacher.shape)} as "
            "the target, which it would broadcast. Give both sides one shape; for labels that are numbers use LabelMSE."
        )


def _arguments_of(loss: Callable[..., Tensor]) -> tuple[str, ...]:
    """Return which of `ARGUMENTS` a loss names."""
    try:
        parameters = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters
    except ValueError:  # a builtin such as torch.dist, which names nothing
        return ()
    inner: tuple[str, ...] = ()
    if isinstance(loss, WrappedLoss) and any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        inner = loss.inner.arguments
    return tuple(name for name in ARGUMENTS if name in parameters or name in inner)


class WrappedLoss(DistillationLoss):
    """Base of losses that call another loss: they have its traits, and what it counts.

    A subclass writes `forward(student, teacher, …, **given)` and calls `self.compare` in it; `given` is what the inner
    loss names in its `forward`. Where a trait is not the inner loss's, `__init__` sets it after that of this class.

    Args:
        loss: the inner loss, `(student, teacher) -> scalar`.

    Raises:
        ConfigError: if `loss` cannot be called, or is a class.

    Example:
        >>> import torch
        >>> class Half(WrappedLoss):
        ...     def forward(self, student, teacher, **given):
        ...         return self.compare(student, teacher, **given) / 2
        >>> Half(nn.MSELoss())(torch.ones(2), torch.zeros(2), mask=None)
        tensor(0.5000)

    """

    inner: LossTraits
    """The traits of the inner loss."""

    def __init__(self, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        if isinstance(loss, type) or not callable(loss):
            name = type(self).__name__
            raise ConfigError(f"Expected argument `loss` of {name} to be a loss such as HiddenMSE() but got {loss!r}.")
        self.loss = loss
        self.inner = LossTraits.of(loss)
        self.equal_widths = self.inner.equal_widths
        self.per_address = self.inner.per_address
        self.widens = self.inner.widens
        self.scheduled = self.inner.scheduled
        self.paired = self.inner.paired
        self.needs_classes = self.inner.needs_classes
        self.gather = self.inner.gather
        self.teacher_state = self.inner.teacher_state

    def bind(
        self, student: tuple[FeatureInfo, ...], teacher: tuple[FeatureInfo, ...], rows: RowInfo | None = None
    ) -> None:
        """Bind the inner loss."""
        bind_loss(self.loss, student, teacher, rows)

    @property
    def diagnostics(self) -> Mapping[str, Tensor]:
        """What the inner loss shows of itself."""
        return self.loss.diagnostics if isinstance(self.loss, DistillationLoss) else {}

    def compare(self, student: Any, teacher: Any, **given: Any) -> Tensor:
        """Return the inner loss, which is given what it names of `given` and no more."""
        if self.inner.elementwise:
            check_elementwise(self.loss, student, teacher)
        return self.loss(student, teacher, **{k: v for k, v in given.items() if k in self.inner.arguments})

    def count(self, student: Any, teacher: Any, **given: Any) -> Tensor | None:
        """Return what the inner loss counts."""
        if not isinstance(self.loss, DistillationLoss):
            return None
        return self.loss.count(student, teacher, **{k: v for k, v in given.items() if k in self.inner.arguments})


def bind_loss(
    loss: object, student: Sequence[FeatureInfo], teacher: Sequence[FeatureInfo], rows: RowInfo | None = None
) -> None:
    """Bind a loss, which is given the rows if it asks for them; any callable that is no `DistillationLoss` is left out.

    Example:
        >>> bind_loss(nn.MSELoss(), [FeatureInfo("classes", 3)], [FeatureInfo("classes", 3)])

    """
    if isinstance(loss, DistillationLoss):
        given = {"rows": rows} if _needs_rows(loss) else {}
        loss.bind(tuple(student), tuple(teacher), **given)
