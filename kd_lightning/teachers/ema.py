"""The student's moving average as its teacher."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from kd_lightning.core.adapter import Adapter
from kd_lightning.core.arguments import is_finite_number
from kd_lightning.core.errors import ConfigError
from kd_lightning.features.structure import unwrap
from kd_lightning.teachers.student_copy import StudentCopy


class EMATeacher(StudentCopy):
    """Teaches as the exponential moving average of the student: θ̄ ← m·θ̄ + (1 − m)·θ after each optimizer step.

    Mean teachers, Tarvainen & Valpola 2017 (1703.01780). With `warmup` m = min(decay, (1 + t)/(10 + t)), t the steps
    before. Buffers, such as a batch norm's statistics, are the student's. The average is kept in float32, runs in eval
    mode, is saved with the checkpoint as `kd_teacher`, and is never written into the student.

    The student is not given: a `DistillationModule`, or the callback, attaches the one that it trains.

    Args:
        decay: the largest m, in [0, 1).
        warmup: whether m is smaller at first.
        adapter: for models that do not follow the usual forms.

    Raises:
        ConfigError: if `decay` is not in [0, 1); before it is attached, for anything that needs the model.

    Example:
        >>> teacher, student = EMATeacher(decay=0.5, warmup=False), nn.Linear(1, 1, bias=False)
        >>> teacher.attach(student)
        >>> with torch.no_grad():
        ...     change = student.weight.add_(1.0)
        >>> teacher.after_step(student)
        >>> float((student.weight - teacher.model.weight).detach())
        0.5

    """

    def __init__(self, decay: float = 0.999, warmup: bool = True, adapter: Adapter | None = None) -> None:
        super().__init__(adapter)
        if not is_finite_number(decay) or not 0 <= decay < 1:
            raise ConfigError(f"Expected argument `decay` of EMATeacher to be in [0, 1) but got {decay!r}.")
        if not isinstance(warmup, bool):
            raise ConfigError(f"Expected argument `warmup` of EMATeacher to be true or false but got {warmup!r}.")
        self.decay, self.warmup = decay, warmup
        self._averaged: AveragedModel | None = None

    def __repr__(self) -> str:
        return f"EMATeacher(decay={self.decay}, warmup={self.warmup})"

    @property
    def averaged(self) -> AveragedModel:
        """The average, with the number of steps in it and one."""
        assert self.live is not None
        assert self._averaged is not None
        return self._averaged

    def copied(self, student: nn.Module) -> nn.Module:
        """Return the average to begin with: the student, in float32."""
        self._averaged = AveragedModel(student, avg_fn=self._average)
        self._averaged.n_averaged.fill_(1)  # else the first step is a copy
        return self._averaged.module.float()

    def begin(self, student: nn.Module) -> None:
        """Copy the student where training begins, whatever it was loaded with since it was attached."""
        self.check_follows(student)
        if self.averaged.n_averaged == 1:
            self.averaged.module.load_state_dict(unwrap(student).state_dict())

    def after_step(self, student: nn.Module) -> None:
        """Move towards the student, after a step of its optimizer."""
        self.averaged.update_parameters(unwrap(student))

    @torch.no_grad()
    def _average(self, averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        t = int(count) - 1
        share = min(self.decay, (1 + t) / (10 + t)) if self.warmup else self.decay
        return torch.lerp(averaged, current.to(averaged.dtype), 1 - share)

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the number of steps in it."""
        return self.averaged.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the average and the number of steps in it."""
        self.averaged.load_state_dict(state)
