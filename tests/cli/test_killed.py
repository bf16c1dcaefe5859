from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

STEPS = 75  # of an epoch: 300 rows in batches of 4


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
    typed += [*short, "baseline=false", "match=[hidden_mse]", "optimizer.lr=1e-3", *tasks, *cache]
    epoch, homes = (STEPS + 25, ["films", "made_up"]) if tasks else (STEPS, [])  # 200 rows in batches of 8
    whole = command(tmp_path, *typed, "hydra.run.dir=whole")
    assert whole.returncode == 0, whole.stderr

    argv = [sys.executable, str(repository / "train.py"), *typed, "hydra.run.dir=killed"]
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(argv, cwd=tmp_path, env=environment, stdout=output, stderr=output)
        kill_in_second_epoch(process, tmp_path / "killed" / "stages" / "student" / "checkpoints")
    assert not (tmp_path / "killed" / "metrics.json").exists()
    last = tmp_path / "killed" / "stages" / "student" / "checkpoints" / "last.ckpt"
    step = torch.load(last, weights_only=True)["global_step"]
    assert 0 < step < 3 * epoch
    assert step % epoch

    resumed = command(tmp_path, "resume=killed")
    assert resumed.returncode == 0, resumed.stderr
    files = sorted((tmp_path / "whole" / "student").rglob("*.*"))
    assert len(files) == 4 * max(1, len(homes))
    for name in (file.relative_to(tmp_path / "whole") for file in files):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert len(list((tmp_path / "killed" / "stages" / "student" / "csv").iterdir())) == 2


def kill_in_second_epoch(process: subprocess.Popen[bytes], checkpoints: Path) -> None:
    """Wait for the first epoch's best checkpoint, and a moment more; nothing may be tidied up."""
    deadline = time.monotonic() + 400
    while not (checkpoints / "best.ckpt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert process.poll() is None, "the run ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
