"""What every teacher source has in common: asked once for addresses, it turns each batch into features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from kd_lightning.core.errors import AddressError, hint
from kd_lightning.core.types import Batch, FeatureInfo, Features, ModelInfo
from kd_lightning.teachers.weights import weights_hash


class TeacherSource(ABC):
    """Gives teacher features for a batch, wherever they come from.

    A plain class on purpose: a Trainer does not see it, so a teacher is in no checkpoint, optimizer or gradient bucket.
    To add a source, write the three abstract members; the rest is for sources that hold models.
    """

    @property
    @abstractmethod
    def info(self) -> ModelInfo:
        """What can be asked for, and how wide it is."""

    @abstractmethod
    def ask(self, addresses: Sequence[str]) -> None:
        """Settle which features every later call returns.

        Raises:
            AddressError: for an address this source cannot give.

        """

    @abstractmethod
    def __call__(self, batch: Batch) -> Features:
        """Return the features of one batch, without gradient."""

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch with what can be done for it before it leaves the host; most sources do nothing."""
        return batch

    def identity(self) -> dict[str, Any]:
        """Return what decides this source's features, for fingerprints: a hash of every model it runs."""
        return {"kind": type(self).__name__, "models": [weights_hash(model) for model in self.models()]}

    def to(self, device: torch.device | str) -> TeacherSource:
        """Follow the student to a device."""
        return self

    def close(self) -> None:  # noqa: B027 - most sources have nothing to close
        """Leave any model as it was found."""

    def models(self) -> Iterator[nn.Module]:
        """Yield the models this source runs; none for a cache."""
        return iter(())


class DeclaredInfo(ModelInfo):
    """What a source gives that holds no live model: a list of its features.

    Args:
        features: what is known of each, by address.
        stacks: number of layers by stack prefix (`""` where there is only one).
        owner: begins the sentences of errors.

    Example:
        >>> info = DeclaredInfo({"logits": FeatureInfo("classes", 3)})
        >>> info.width("logits")
        3

    """

    def __init__(
        self,
        features: Mapping[str, FeatureInfo],
        stacks: Mapping[str, int] | None = None,
        owner: str = "This teacher source",
    ) -> None:
        self._features, self._stacks, self._owner = dict(features), dict(stacks or {}), owner

    def layers(self, stack: str = "") -> int:
        """Return the number of layers of a stack.

        Raises:
            AddressError: if there is no feature of that stack.

        """
        if stack not in self._stacks:
            what = f"layers of '{stack}'" if stack else "layers"
            raise AddressError(f"{self._owner} holds no {what}, only {', '.join(self._features)}.")
        return self._stacks[stack]

    def feature(self, address: str) -> FeatureInfo:
        """Return what is known of a feature.

        Raises:
            AddressError: if there is no such feature.

        """
        if address not in self._features:
            raise AddressError(f"{self._owner} does not hold '{address}'. {hint(address, self._features)}")
        return self._features[address]

    def check(self, addresses: Sequence[str]) -> None:
        """Raise `AddressError` for the first address that is not there."""
        for address in addresses:
            self.feature(address)
