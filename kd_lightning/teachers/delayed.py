"""An earlier state of a student as a teacher."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from kd_lightning.core.adapter import Adapter
from kd_lightning.core.errors import ConfigError
from kd_lightning.features.structure import unwrap
from kd_lightning.teachers.student_copy import StudentCopy


class DelayedTeacher(StudentCopy):
    """Teaches as a student was some steps ago: its copy is made anew every N optimizer steps.

    Codistillation, Anil et al. 2018 (1804.03235), where peers that train apart exchange copies now and then: see
    `MutualModule(every=N)`. The copy and the steps since are saved with the checkpoint.

    Args:
        every: N.
        adapter: for models that do not follow the usual forms.

    Raises:
        ConfigError: if `every` is no whole number above 0.

    """

    def __init__(self, every: int = 100, adapter: Adapter | None = None) -> None:
        super().__init__(adapter)
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise ConfigError(f"Expected argument `every` to be a number of steps, at least 1, but got {every!r}.")
        self.every, self.steps = every, 0

    def __repr__(self) -> str:
        return f"DelayedTeacher(every={self.every})"

    def copied(self, student: nn.Module) -> nn.Module:
        """Return a copy."""
        self.steps = 0
        return copy.deepcopy(student)

    def begin(self, student: nn.Module) -> None:
        """Copy the student where training begins, whatever it was loaded with since it was attached."""
        self.check_follows(student)
        if self.steps == 0:
            self._renew(student)

    def after_step(self, student: nn.Module) -> None:
        """Count a step of the student's optimizer, and copy it after every N."""
        self.steps += 1
        if self.steps % self.every == 0:
            self._renew(student)

    def _renew(self, student: nn.Module) -> None:
        self.model.load_state_dict(unwrap(student).state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return the copy and the number of steps."""
        return {"steps": self.steps, "model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the copy and the number of steps."""
        self.steps = state["steps"]
        self.model.load_state_dict(state["model"])
