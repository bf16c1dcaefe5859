"""In a job of Slurm's: one process works, and a command that Slurm started several times says so."""

from __future__ import annotations

import pytest

from kd_lightning.core.errors import ConfigError
from kd_lightning.pipeline.environment import check_one_task


def test_a_command_that_slurm_started_several_times_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"Slurm started this command 4 times .* srun --ntasks=1 … trainer=ddp"):
        check_one_task({"SLURM_STEP_NUM_TASKS": "4"})


@pytest.mark.parametrize("tasks", [{}, {"SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_NTASKS": "4"}])
def test_one_task_or_one_torchrun_is_none(tasks: dict[str, str]) -> None:
    check_one_task(tasks)
    check_one_task({"SLURM_STEP_NUM_TASKS": "4", "TORCHELASTIC_RUN_ID": "1"})
