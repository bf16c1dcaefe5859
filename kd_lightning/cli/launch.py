"""Starting a stage: in this process, or as several ranks on the saved configuration.

Ranks never run the command again: Lightning's own launcher would, and would then repeat a whole sweep in each of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from omegaconf import DictConfig

from kd_lightning.cli.stages import Stage, result_of, run_stage, stage_folder
from kd_lightning.core.errors import ConfigError, KDError

ELASTIC = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK",
           "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # fmt: skip


ALONE = ("teacher", "cache")
"""Stages of one process: their outcome is shared by all, and by other runs."""


def inside_torchrun() -> bool:
    """Tell whether an outer torchrun (several machines) started this process as one of its ranks."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def outer_rank() -> int:
    """Return this process's rank under an outer torchrun, else 0."""
    return int(os.environ.get("RANK", 0)) if inside_torchrun() else 0


def start_stage(cfg: DictConfig, run_dir: Path, stage: Stage) -> None:
    """Run a stage unless it is finished, on as many processes as the trainer asks for."""
    if result_of(run_dir, stage) is not None:
        return
    if inside_torchrun():
        _as_one_rank(cfg, run_dir, stage)
    elif stage not in ALONE and (processes := count_processes(cfg)) > 1:
        _as_several_ranks(run_dir, stage, processes)
    else:
        run_stage(cfg, run_dir, stage)


def count_processes(cfg: DictConfig) -> int:
    """Return the number of processes on this machine that the trainer's devices ask for."""
    from lightning.pytorch import Trainer

    if cfg.trainer.num_nodes > 1:
        raise ConfigError(
            f"trainer.num_nodes={cfg.trainer.num_nodes} needs one start per machine: "
            "torchrun --nnodes=N --nproc-per-node=M … train.py … hydra.run.dir=SHARED_FOLDER"
        )
    devices = cfg.trainer.devices
    if isinstance(devices, int) and devices > 0:
        return devices
    probe = Trainer(accelerator=cfg.trainer.accelerator, devices=devices, logger=False, enable_checkpointing=False)
    return probe.num_devices


def check_ranks(cfg: DictConfig) -> None:
    """Refuse an outer torchrun that started another number of processes here than the trainer's devices ask for.

    Raises:
        ConfigError: with both numbers.

    """
    wanted, started = cfg.trainer.devices, int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if isinstance(wanted, int) and wanted > 0 and wanted != started:
        raise ConfigError(
            f"torchrun started {started} processes here, but trainer.devices={wanted} asks for {wanted}. "
            f"Type trainer=ddp trainer.devices={started}, or torchrun --nproc-per-node={wanted}."
        )


def _as_several_ranks(run_dir: Path, stage: Stage, processes: int) -> None:
    """Start torchrun on the saved configuration and wait; a rank's own error becomes ours."""
    folder = stage_folder(run_dir, stage)
    folder.mkdir(parents=True, exist_ok=True)
    sentence = folder / "error.txt"
    sentence.unlink(missing_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    with (folder / "ranks.log").open("ab") as log:
        done = subprocess.run([*command, "-m", "kd_lightning.cli.worker", str(run_dir), stage], stderr=log, check=False)
    if sentence.is_file():
        raise KDError(sentence.read_text().strip())
    if done.returncode or result_of(run_dir, stage) is None:
        raise KDError(f"A rank of stage '{stage}' ended with code {done.returncode}; see {folder / 'ranks.log'}.")


def _as_one_rank(cfg: DictConfig, run_dir: Path, stage: Stage) -> None:
    """Under an outer torchrun: train as one of its ranks; what needs one process is rank 0's alone."""
    if stage not in ALONE:
        run_stage(cfg, run_dir, stage)
    elif outer_rank() == 0:
        by_itself(run_dir, stage)
    wait_for(stage_folder(run_dir, stage) / "result.json")


def by_itself(run_dir: Path, stage: str) -> None:
    """Run a stage in a process of its own that knows nothing of the other ranks."""
    sentence = stage_folder(run_dir, "teacher" if stage == "find_teacher" else stage) / "error.txt"  # type: ignore[arg-type]
    sentence.unlink(missing_ok=True)
    environment = {k: v for k, v in os.environ.items() if k not in ELASTIC and not k.startswith("TORCHELASTIC")}
    done = subprocess.run(
        [sys.executable, "-m", "kd_lightning.cli.worker", str(run_dir), stage], env=environment, check=False
    )
    if done.returncode:
        raise KDError(
            sentence.read_text().strip()
            if sentence.is_file()
            else f"Stage '{stage}' ended with code {done.returncode}."
        )


def wait_for(path: Path, seconds: float = 0.5) -> None:
    """Wait until a file is there; torchrun ends this process if the one that writes it fails."""
    while not path.exists():
        time.sleep(seconds)
