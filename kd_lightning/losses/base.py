"""What every loss is: a module that compares a student's tensor with a teacher's and knows no layer name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from kd_lightning.core.errors import ConfigError

Compat = Literal["textbrewer"] | None
"""None: our definition. "textbrewer": what TextBrewer 0.2.1 computes."""


class DistillationLoss(nn.Module):
    """Base of the losses. Subclasses write `forward(student, teacher, mask=None)` and, if they are means, `count`.

    Their common contract: the teacher is detached, everything is computed in at least float32, the result is a scalar,
    garbage under the mask changes neither value nor gradient, and an empty mask gives a differentiable zero.

    A loss that also needs the batch's labels names a keyword argument `labels`. A loss over pairs of layers takes
    tuples of tensors.

    Example:
        >>> import torch
        >>> class Absolute(DistillationLoss):
        ...     def forward(self, student, teacher):
        ...         return (student - teacher.detach()).abs().mean()
        >>> Absolute()(torch.ones(2), torch.zeros(2))
        tensor(1.)

    """

    equal_widths: ClassVar[bool] = False
    """Whether the student's and the teacher's widths must agree, so that others may need a projection."""

    one_by_one: ClassVar[bool] = False
    """What several addresses mean: each pair by itself, and the mean over all (logits), or one thing (FSP, NST)."""

    widens: ClassVar[bool] = False
    """Whether `forward` makes float32 of what it is given by itself. If not, a term gives it float32 copies."""

    def count(self, *args: Any, **kwargs: Any) -> Tensor | None:
        """Return how many things the mean of `forward` runs over, for the very arguments that `forward` gets.

        A float scalar, right up to a constant factor: the value over a batch is then the count-weighted mean of the
        values over its parts, which is how means become exact over several devices. None: not such a mean.
        """
        return None

    def extra_repr(self) -> str:
        """Show the options that were given."""
        own = {k: v for k, v in vars(self).items() if not k.startswith("_") and k != "training" and v is not None}
        return ", ".join(f"{k}={v!r}" for k, v in own.items())


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Check an option that has a few possible values.

    Raises:
        ConfigError: `value` is none of `choices`.

    Example:
        >>> check_choice("kind", "kl", ("kl", "ce"))

    """
    choices = tuple(choices)
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ConfigError(f"Expected argument `{name}` to be one of {listed} but got {value!r}.")


def check_compat(value: object) -> None:
    """Check the option `compat`.

    Raises:
        ConfigError: it is neither None nor "textbrewer".

    """
    check_choice("compat", value, (None, "textbrewer"))


def check_positive(name: str, value: float | None) -> None:
    """Check a number that must be positive and finite, None allowed.

    Raises:
        ConfigError: it is not.

    Example:
        >>> check_positive("temperature", 2.0)

    """
    if value is not None and not 0 < value < float("inf"):
        raise ConfigError(f"Expected argument `{name}` to be positive and finite but got {value!r}.")


def textbrewer_mask(compat: Compat, logits: Tensor, mask: Tensor | None) -> Tensor | None:
    """Return the mask over logits; TextBrewer has none for two-dimensional ones."""
    return None if compat and logits.dim() == 2 else mask
