"""Starting a stage: in this process, or as several ranks on the saved configuration.

Ranks never run the command again: Lightning's own launcher would, and would then repeat a whole sweep in each of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from kd_lightning.core.errors import ConfigError, KDError
from kd_lightning.core.files import write_json
from kd_lightning.core.unwritable import explained
from kd_lightning.core.version import VERSION
from kd_lightning.pipeline.environment import cluster_plugins
from kd_lightning.pipeline.heartbeat import wait_for
from kd_lightning.pipeline.ranks import WORKER, start_ranks
from kd_lightning.pipeline.settings import RunSettings
from kd_lightning.pipeline.stage import Stage, stage_folder

ELASTIC = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK",
           "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # fmt: skip


def inside_torchrun() -> bool:
    """Tell whether an outer torchrun (several machines) started this process as one of its ranks."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def outer_rank() -> int:
    """Return this process's rank under an outer torchrun, else 0."""
    return int(os.environ.get("RANK", 0)) if inside_torchrun() else 0


def start_stage(stage: Stage, settings: RunSettings, run_dir: Path) -> None:
    """Run a stage unless it is finished, on as many processes as the Trainer asks for.

    Raises:
        KDError: with the error of the rank that failed.

    """
    if stage.is_done(run_dir):
        return
    if inside_torchrun():
        if not stage.one_process:
            run_stage(stage, settings, run_dir)
        elif outer_rank() == 0:
            _in_its_own_process(stage, run_dir)
        wait_for(stage_folder(run_dir, stage.name) / "result.json", run_dir)
    elif not stage.one_process and (processes := count_processes(settings.of(stage.name))) > 1:
        start_ranks(stage, run_dir, processes)
    else:
        run_stage(stage, settings, run_dir)


def run_stage(stage: Stage, settings: RunSettings, run_dir: Path) -> None:
    """Run a stage in this process and write its result, last of all."""
    start = time.perf_counter()
    with explained(stage_folder(run_dir, stage.name)):  # what loggers and other libraries write there
        result = stage.run(settings.of(stage.name), run_dir)
    if int(os.environ.get("RANK", 0)) == 0:
        seconds = {"seconds": round(time.perf_counter() - start, 2)}
        write_json(stage_folder(run_dir, stage.name) / "result.json", seconds | result | {"kd_version": VERSION})


def count_processes(settings: RunSettings) -> int:
    """Return the number of processes on this machine that the Trainer's devices ask for.

    Raises:
        ConfigError: several machines, which need one start each.

    """
    from lightning.pytorch import Trainer

    trainer = settings.fitting.trainer
    devices, nodes = trainer.get("devices", "auto"), trainer.get("num_nodes", 1)
    if nodes > 1:
        raise ConfigError(
            f"trainer.num_nodes={nodes} needs one start per machine: "
            "torchrun --nnodes=N --nproc-per-node=M … train.py … hydra.run.dir=SHARED_FOLDER"
        )
    if isinstance(devices, int) and devices > 0:
        return devices
    accelerator = trainer.get("accelerator", "auto")
    quiet: Any = {"logger": False, "enable_checkpointing": False, "plugins": cluster_plugins()}
    return Trainer(accelerator=accelerator, devices=devices, **quiet).num_devices


def check_ranks(settings: RunSettings) -> None:
    """Raise an error where an outer torchrun started another number of processes than the Trainer's devices ask for.

    Raises:
        ConfigError: with both numbers.

    """
    wanted, started = settings.fitting.trainer.get("devices"), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if isinstance(wanted, int) and wanted > 0 and wanted != started:
        raise ConfigError(
            f"torchrun started {started} processes here, but trainer.devices={wanted} asks for {wanted}. "
            f"Type trainer=ddp trainer.devices={started}, or torchrun --nproc-per-node={wanted}."
        )


def _in_its_own_process(stage: Stage, run_dir: Path) -> None:
    """Run a stage in a process of its own that knows nothing of the other ranks."""
    error = stage_folder(run_dir, stage.name) / "error.txt"
    error.unlink(missing_ok=True)
    environment = {k: v for k, v in os.environ.items() if k not in ELASTIC and not k.startswith("TORCHELASTIC")}
    done = subprocess.run([sys.executable, "-m", WORKER, str(run_dir), stage.name], env=environment, check=False)
    if done.returncode:
        message = f"Stage '{stage.name}' ended with code {done.returncode}."
        raise KDError(error.read_text().strip() if error.is_file() else message)
