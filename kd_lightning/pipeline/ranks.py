"""A stage as several ranks: started by torchrun, stopped by way of a file, and ended with their launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from kd_lightning.core.errors import KDError, Stopped
from kd_lightning.core.files import is_alive, read_json, write_json, write_text
from kd_lightning.pipeline.signals import raised
from kd_lightning.pipeline.stage import Stage, stage_folder

WORKER = "kd_lightning.cli.worker"
"""Runs one rank of a stage: `python -m … RUN_DIR STAGE`."""

LAUNCHER = "KD_LAUNCHER"
"""The environment variable with the number of the process that ranks end with."""

LOCK = ".ranks.lock"
"""Is held in a run's folder as long as rank 0 works there."""

SECONDS = 0.5
"""Between two looks of a rank at its launcher."""


def start_ranks(stage: Stage, run_dir: Path, processes: int) -> None:
    """Start torchrun on the saved configuration and wait; a rank's own error becomes this process's.

    Raises:
        KDError: with the error of the rank that failed.
        Stopped: after a signal, once the ranks have saved.

    """
    folder = stage_folder(run_dir, stage.name)
    folder.mkdir(parents=True, exist_ok=True)
    error, stop, stopped = (folder / name for name in ("error.txt", "stop", "stopped.json"))
    for file in (error, stop, stopped):
        file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = os.environ | {LAUNCHER: str(os.getpid())}
    with (folder / "ranks.log").open("ab") as log:
        # In a session of its own: torchrun would end the ranks at Ctrl-C before they have saved.
        started = subprocess.Popen(
            [*command, "-m", WORKER, str(run_dir), stage.name], stderr=log, env=environment, start_new_session=True
        )
        with _forwarding(started, stop):
            code = started.wait()
    if stopped.is_file():
        found = read_json(stopped)
        raise Stopped(found["number"], found["saved"])
    if stop.is_file():
        raise Stopped(int(stop.read_text()))
    if error.is_file():
        raise KDError(error.read_text().strip())
    if code or not stage.is_done(run_dir):
        raise KDError(f"A rank of stage '{stage.name}' ended with code {code}; see {folder / 'ranks.log'}.")


@contextmanager
def _forwarding(started: subprocess.Popen[bytes], stop: Path) -> Iterator[None]:
    """Pass a first signal on to the ranks, which look for a file; end them at a second one, or at an error here."""

    def forward(number: int, frame: Any) -> None:
        if stop.is_file():
            raise Stopped(number)
        write_text(stop, str(number))

    try:
        with raised(forward):
            yield
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()


@contextmanager
def as_rank(run_dir: Path, name: str) -> Iterator[None]:
    """Work as a rank: receive the launcher's signals, end when it has ended, and lock the run's folder."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is None:
        yield
        return
    folder, first = stage_folder(run_dir, name), os.environ.get("RANK", "0") == "0"
    threading.Thread(target=_watch, args=(int(launcher), folder / "stop"), daemon=True).start()
    lock = FileLock(run_dir / LOCK)
    try:
        if first:
            lock.acquire(timeout=0)
        yield
    except Stopped as stopped:
        if first:
            write_json(folder / "stopped.json", {"number": stopped.number, "saved": stopped.saved})
        raise
    finally:
        lock.release()


def _watch(launcher: int, stop: Path) -> None:
    """End this process when the launcher is gone; send it the signal that the launcher was sent."""
    forwarded = False
    while True:
        time.sleep(SECONDS)
        if not is_alive(launcher):
            os._exit(1)
        if not forwarded and stop.is_file():
            forwarded = True
            os.kill(os.getpid(), int(stop.read_text()))
