"""What every teacher source has in common: asked once for addresses, it turns each batch into features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from kd_lightning.core.types import Batch, Features, ModelInfo
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
