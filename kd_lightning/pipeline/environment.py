"""What starts the ranks: torchrun, or nothing. A cluster's own variables say nothing of the processes of a stage."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.plugins.environments import ClusterEnvironment, LightningEnvironment, SLURMEnvironment

from kd_lightning.core.errors import ConfigError


def cluster_plugins(strategy: Any = "auto", plugins: Sequence[Any] = ()) -> list[ClusterEnvironment]:
    """Return the plugin that keeps Lightning from taking this process for one of Slurm's ranks.

    In a job of Slurm's, Lightning counts the job's tasks as ranks, answers SIGUSR1 by a checkpoint of its own and
    `scontrol requeue`, and refuses `--ntasks`. Here one process works, or torchrun starts the ranks, and a signal saves
    the run and ends it.

    Args:
        strategy: the Trainer's; an object brings an environment of its own.
        plugins: the user's own, one of which may be an environment.

    """
    own = any(isinstance(plugin, ClusterEnvironment) for plugin in plugins)
    if own or not isinstance(strategy, str) or "TORCHELASTIC_RUN_ID" in os.environ or not SLURMEnvironment.detect():
        return []
    return [LightningEnvironment()]


def check_one_task(environment: Mapping[str, str] = os.environ) -> None:
    """Raise an error where `srun` started the command several times, which would be as many runs.

    Raises:
        ConfigError: with what to type instead.

    """
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks.isdigit() and int(tasks) > 1 and "TORCHELASTIC_RUN_ID" not in environment:
        raise ConfigError(
            f"Slurm started this command {tasks} times (srun --ntasks={tasks}), but it starts its ranks itself: type "
            "srun --ntasks=1 … trainer=ddp trainer.devices=N; on several machines one torchrun on each."
        )
