"""The few types that all packages share. Imports torch only."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from kd_lightning.core.errors import MatchError

NAME = re.compile(r"[A-Za-z0-9_]+")
"""Names of terms, teachers and tasks: letters, digits and underscores."""

Batch: TypeAlias = Mapping[str, Any] | Sequence[Any]
"""A batch: a mapping (`input_ids`, `labels`, …), a pair `(x, y)`, or `{"student": …, "teacher": …}`."""

Features: TypeAlias = dict[str, Tensor]
"""Tensors by address: `{"hidden.3": (B, L, D), "logits": (B, C)}`."""

Schedule: TypeAlias = Callable[[float], float]
"""Progress of training in [0, 1] → factor of a base weight."""


Kind: TypeAlias = Literal["scalar", "vector", "tokens", "heads", "attention", "map", "classes", "positions", "queries"]
"""What the axes of a feature are.

`vector` (B, D); `tokens` (B, L, D); `heads` (B, H, L, D); `attention` (B, H, L, L); `map` (B, C, H, W); `classes`,
logits over classes, (B, C) or (B, L, C); `positions`, logits over tokens, (B, L); `queries` of a detector, (B, Q, D).
"""


@dataclass(frozen=True)
class FeatureInfo:
    """What is known of a feature before any model runs.

    Args:
        kind: what its axes are; None where only the tensor itself will tell.
        width: size of the axis that a projection maps: D, C of maps, the number of classes; None where it is not known.
        stack: the stack of layers it comes from, such as `encoder`; "" where the model has one.
        predicts_next: whether it is logits of the next token each, as a causal language model's.
        address: where in the model it is; "" where that is not known.
        module: the module whose output it is; None for other features, and where no model is at hand, as of a cache.
        state: what a cache's manifest holds of the teacher for losses that need its weights, by name.

    """

    kind: Kind | None = None
    width: int | None = None
    stack: str = ""
    predicts_next: bool = field(default=False, repr=False)
    address: str = field(default="", repr=False, compare=False)
    module: nn.Module | None = field(default=None, repr=False, compare=False)
    state: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class RowInfo:
    """The rows that a student is trained on, for losses that keep something of each.

    Args:
        ids: (N,), the `sample_id` of every row.
        labels: (N,), its class; None where rows have none.

    """

    ids: Tensor
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        """Check that there is a label for each id, where there are labels.

        Raises:
            MatchError: if there is not.

        """
        given = [x for x in (self.ids, self.labels) if x is not None]
        if not all(isinstance(x, Tensor) and x.dim() == 1 and len(x) == len(self.ids) for x in given):
            raise MatchError("RowInfo needs ids (N,), and labels (N,) or None, as tensors.")

    def __len__(self) -> int:
        return len(self.ids)


Rows: TypeAlias = RowInfo | Callable[[], RowInfo]
"""The rows, or a function that reads them: it is called only where a loss asks for them."""


@runtime_checkable
class ModelInfo(Protocol):
    """What is known of a model before it runs: its layers, and what each addressed feature is.

    `kd_lightning.features.model_info(model)` makes one from a live model; a cache's manifest is another.
    """

    def layers(self, stack: str = "") -> int:
        """Return the number of layers of a stack (`""` where the model has only one)."""

    def feature(self, address: str) -> FeatureInfo:
        """Return what the feature's axes are, how wide it is, and which stack it comes from.

        Raises:
            AddressError: if the model has no such feature.

        """

    def width(self, address: str) -> int | None:
        """Return the width of a feature, or None where it is not known."""
        return self.feature(address).width

    def check(self, addresses: Sequence[str]) -> None:
        """Raise `AddressError` for the first address that this model does not have."""


@dataclass(frozen=True)
class LossReport:
    """One evaluation of an objective: the total to back-propagate, and its parts.

    Args:
        total: scalar, Σ weight · part, with gradient.
        parts: unweighted scalar per term, in the objective's order.
        weights: the factor of each part in `total` (base weight × schedule).
        diagnostics: what losses show of themselves, by `<term>/<name>`.

    Example:
        >>> report = LossReport(torch.tensor(3.0), {"hard": torch.tensor(6.0)}, {"hard": 0.5})
        >>> sorted(report.logs("train"))
        ['train/loss', 'train/loss/hard', 'train/weighted/hard']

    """

    total: Tensor
    parts: Mapping[str, Tensor]
    weights: Mapping[str, float] = field(default_factory=dict)
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def weighted(self) -> dict[str, Tensor]:
        """Each part times its weight; they sum to `total`."""
        return {name: part * self.weights.get(name, 1.0) for name, part in self.parts.items()}

    def logs(self, prefix: str, parts: bool = True) -> dict[str, Tensor]:
        """Return detached scalars for a logger: `<prefix>/loss`, `<prefix>/loss/<term>`, `<prefix>/weighted/<term>`."""
        logs = {f"{prefix}/loss": self.total.detach()}
        if not parts:
            return logs
        logs |= {f"{prefix}/loss/{name}": part.detach() for name, part in self.parts.items()}
        logs |= {f"{prefix}/{name}": value.detach() for name, value in self.diagnostics.items()}
        return logs | {f"{prefix}/weighted/{name}": part.detach() for name, part in self.weighted.items()}

    def non_finite(self) -> list[str]:
        """Return the names of the terms that are infinite or not-a-number (synchronises with the device)."""
        return [name for name, part in self.parts.items() if not torch.isfinite(part).all()]
