"""What teachers have in common that are copies of a student and follow it in training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from kd_lightning.core.adapter import Adapter
from kd_lightning.core.errors import ConfigError
from kd_lightning.core.types import Batch, Features, ModelInfo
from kd_lightning.features.structure import unwrap
from kd_lightning.teachers.base import TeacherSource
from kd_lightning.teachers.live import LiveTeacher


class StudentCopy(TeacherSource):
    """Base of teachers that are a frozen copy of a student: one that is attached, and runs as a `LiveTeacher` does.

    Args:
        adapter: for models that do not follow the usual forms.

    """

    follows_student = True

    def __init__(self, adapter: Adapter | None = None) -> None:
        self.adapter = adapter
        self._live: LiveTeacher | None = None
        self._followed: int | None = None
        """Which student it was attached to, in this process."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_followed": None}  # a copy's student is a copy too

    @abstractmethod
    def copied(self, student: nn.Module) -> nn.Module:
        """Return the copy to begin with, which is frozen then."""

    def attach(self, student: nn.Module) -> None:
        """Begin with a copy of a student."""
        self._live = LiveTeacher(self.copied(unwrap(student)), adapter=self.adapter)
        self._followed = id(unwrap(student))

    def check_follows(self, student: nn.Module) -> None:
        """Refuse to go on with a student that is not the one it was attached to last.

        Raises:
            ConfigError: if another module took it in between.

        """
        if self._followed not in (None, id(unwrap(student))):
            name = type(self).__name__
            raise ConfigError(f"This {name} follows the student of another module by now: make a {name} for each.")

    @property
    def live(self) -> LiveTeacher:
        """What runs the copy.

        Raises:
            ConfigError: before it is attached to a student.

        """
        if self._live is None:
            raise ConfigError(f"{type(self).__name__} is a copy of the student of a module, and is not yet in one.")
        return self._live

    @property
    def model(self) -> nn.Module:
        """The copy."""
        return self.live.model

    @property
    def info(self) -> ModelInfo:
        """What can be requested: what the student has."""
        return self.live.info

    def ask(self, addresses: Sequence[str]) -> None:
        """Set which features every later call returns."""
        self.live.ask(addresses)

    def __call__(self, batch: Batch) -> Features:
        """Return the copy's features of one batch."""
        return self.live(batch)

    def to(self, device: torch.device | str) -> StudentCopy:
        """Move the copy."""
        self.live.to(device)
        return self

    def close(self) -> None:
        """Remove taps from the copy."""
        if self._live is not None:
            self._live.close()

    def models(self) -> Iterator[nn.Module]:
        """Yield the copy, once it is attached."""
        if self._live is not None:
            yield self._live.model
