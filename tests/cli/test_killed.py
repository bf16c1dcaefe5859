from __future__ import annotations

import os
import re
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from .. import processes

TASKS = ["+data@tasks.made_up=synthetic", "+tasks.made_up.data.train_size=200", "tasks.made_up.data.batch_size=8"]


@pytest.mark.parametrize("cache", [[], pytest.param(["cache=true"], marks=pytest.mark.slow)], ids=["live", "cached"])
@pytest.mark.parametrize("tasks", [[], pytest.param([*TASKS, "tau=0.5"], marks=pytest.mark.slow)], ids=["one", "two"])
def test_killed_in_mid_epoch_and_resumed_a_student_is_bit_equal(
    tasks: list[str],
    cache: list[str],
    command: Any,
    environment: dict[str, str],
    repository: Path,
    films_root: Path,
    tmp_path: Path,
) -> None:
    short = ["teacher.trainer.max_epochs=1", "trainer.max_epochs=3", "callbacks.last.every_n_train_steps=8"]
    typed = ["data=sst2", "data.name=films", f"data.root={films_root}", "teacher=tiny_random", "data.batch_size=4"]
    typed += ["teacher.architecture.num_hidden_layers=2", "student.num_hidden_layers=1"]
    typed += [*short, "baseline=false", "match=[hidden_mse]", "optimizer.lr=1e-3", *tasks, *cache]
    typed += ["trainer.accumulate_grad_batches=2"]
    epoch, homes = (50, ["films", "made_up"]) if tasks else (38, [])  # steps; of two tasks 25 batches more
    whole = command(tmp_path, *typed, "hydra.run.dir=whole")
    assert whole.returncode == 0, whole.stderr

    argv, output = [str(repository / "train.py"), *typed, "hydra.run.dir=killed"], tmp_path / "output"
    checkpoints = tmp_path / "killed" / "stages" / "student" / "checkpoints"
    last = checkpoints / "last.ckpt"
    process = processes.start(argv, tmp_path, environment, output, output)
    wait_for(last, process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 143
    step = torch.load(last, weights_only=True)["global_step"]
    assert output.read_text().splitlines()[-1] == (
        f"Stopped by SIGTERM, saved at step {step}. To go on: python train.py resume={tmp_path / 'killed'}"
    )

    process = processes.start([argv[0], "resume=killed"], tmp_path, environment, output, output)
    wait_for(checkpoints / "best.ckpt", process)
    time.sleep(0.1)
    assert process.is_alive(), "the run ended before it could be killed"
    process.kill()
    process.join()
    assert not (tmp_path / "killed" / "metrics.json").exists()
    assert step <= torch.load(last, weights_only=True)["global_step"] < 3 * epoch

    resumed = command(tmp_path, "resume=killed")
    assert resumed.returncode == 0, resumed.stderr
    files = sorted((tmp_path / "whole" / "student").rglob("*.*"))
    assert len(files) == 5 * max(1, len(homes))
    for name in (file.relative_to(tmp_path / "whole") for file in files):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    logged = Path("stages", "student", "csv", "version_0", "metrics.csv")
    assert (tmp_path / "killed" / logged).read_text() == (tmp_path / "whole" / logged).read_text()


def wait_for(file: Path, process: BaseProcess) -> None:
    deadline = time.monotonic() + 400
    while not file.exists() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_slurms_signal_saves_and_asks_for_no_requeue(
    command: Any, environment: dict[str, str], repository: Path, on_films: list[str], tmp_path: Path
) -> None:
    """As in a job of `--ntasks=4` whose script starts the command once, by `--signal=B:USR1@90`."""
    job = {"JOB_ID": "7", "JOB_NAME": "kd", "NTASKS": "4", "PROCID": "0", "LOCALID": "0", "NODEID": "0", "NNODES": "2"}
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f"#!/bin/sh\ntouch {tmp_path / 'requeued'}\n")
    scontrol.chmod(0o755)
    within = environment | {f"SLURM_{name}": value for name, value in job.items()}
    within |= {"PATH": f"{scontrol.parent}:{environment['PATH']}", "SLURM_JOB_NODELIST": "here"}
    long = ["trainer.limit_train_batches=null", "trainer.max_epochs=500", "callbacks.last.every_n_train_steps=5"]
    small = ["student.num_hidden_layers=1", "teacher.architecture.num_hidden_layers=1", "baseline=false"]
    argv, output = [str(repository / "train.py"), *on_films, *long, *small, "hydra.run.dir=run"], tmp_path / "output"
    argv.append("+teacher.trainer.limit_train_batches=2")
    process = processes.start(argv, tmp_path, within, output, output)
    wait_for(tmp_path / "run" / "stages" / "student" / "checkpoints" / "last.ckpt", process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGUSR1)
    process.join()
    told = output.read_text()
    assert process.exitcode == 138, told
    assert re.search(r"Stopped by SIGUSR1, saved at step \d+. To go on: python train.py resume=\S+/run$", told.strip())
    assert not (tmp_path / "requeued").exists()
    assert not list((tmp_path / "run").rglob("hpc_ckpt*"))
