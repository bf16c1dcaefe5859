"""The student's own features as its teacher: deeper layers teach shallow ones, the last classifier the earlier ones."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from kd_lightning.core.errors import ConfigError
from kd_lightning.core.types import Batch, Features, ModelInfo
from kd_lightning.features import model_info
from kd_lightning.teachers.base import TeacherSource


class SelfTeacher(TeacherSource):
    """Teaches with what the student computed in the same forward pass, detached: no second model runs.

    "Be your own teacher", Zhang et al. 2019 (1905.08094), matches earlier layers with the last; FastBERT (Liu et al.
    2020, 2004.02178) earlier classifiers. The teacher's side of a match is an address of the student.

    Example:
        >>> import torch
        >>> import kd_lightning as kd
        >>> student = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2))
        >>> objective = kd.Objective({"earlier": kd.Term(kd.Match("0", "1"), nn.MSELoss())})
        >>> module = kd.DistillationModule(student, SelfTeacher(), objective)
        >>> report = module.compare({"input": torch.ones(3, 4), "labels": torch.zeros(3)})
        >>> report.total.requires_grad
        True

    """

    follows_student = True
    sees_features = True

    def __init__(self) -> None:
        self._info: ModelInfo | None = None
        self._features: Features | None = None
        self._addresses: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return "SelfTeacher()"

    def attach(self, student: nn.Module) -> None:
        """Know the student's features."""
        self._info = model_info(student)

    @property
    def info(self) -> ModelInfo:
        """What can be requested: what the student has.

        Raises:
            ConfigError: before it is attached to one.

        """
        if self._info is None:
            raise ConfigError("A SelfTeacher teaches the student of a DistillationModule, and is not yet in one.")
        return self._info

    def ask(self, addresses: Sequence[str]) -> None:
        """Set which features every later call returns."""
        self.info.check(addresses)
        self._addresses = tuple(addresses)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The student's features that are asked for."""
        return self._addresses

    def see(self, features: Features) -> None:
        """Take the student's features of the batch that is asked for next."""
        self._features = {address: features[address].detach() for address in self._addresses}

    def __call__(self, batch: Batch) -> Features:
        """Return the student's features of this batch."""
        features, self._features = self._features, None
        if features is None:
            raise ConfigError("A SelfTeacher has no features before the student has run on the batch.")
        return features
