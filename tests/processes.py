"""Scripts in processes of their own that need not import everything again: they are forked from one that has.

Importing torch, Lightning and transformers takes seconds, and many tests start a command. A server, one for each
process of pytest, imports once what all of them need; a script then begins as in a
fresh process, but for `sys.modules`.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

PRELOADED = [
    "kd_lightning.cli.train",
    "kd_lightning.cli.settle",
    "kd_lightning.cli.sweep_report",
    "kd_lightning.data",
    "kd_lightning.pipeline.run",
    "kd_lightning.tasks",
    "kd_lightning.training.callbacks",
    "lightning.pytorch.loggers.tensorboard",
    "matplotlib.backends.backend_agg",
    "pyarrow.parquet",
    "torch.utils.tensorboard",
    "transformers.models.bert.modeling_bert",
    "transformers.models.bert.tokenization_bert",
]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(PRELOADED)


def start(
    argv: Sequence[str], folder: Path, environment: Mapping[str, str], output: Path, errors: Path
) -> ForkServerProcess:
    """Start `python argv…` in a folder.

    Args:
        argv: a script and its arguments.
        folder: its working folder.
        environment: all of its environment.
        output: the file that its standard output goes to.
        errors: the same for its standard error.

    """
    process = SERVER.Process(target=_script, args=(list(argv), folder, dict(environment), output, errors))
    process.start()
    return process


def run(
    argv: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run `python argv…` in a folder, as `subprocess.run` with `capture_output` would."""
    with tempfile.TemporaryDirectory() as place:
        output, errors = Path(place, "output"), Path(place, "errors")
        process = start(argv, folder, environment, output, errors)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(list(argv), timeout)
        return subprocess.CompletedProcess(list(argv), process.exitcode, output.read_text(), errors.read_text())


def together(*runs: tuple[Sequence[str], Path], timeout: float) -> list[int | None]:
    """Run several scripts at the same time, each with a file for all that it prints; return their exit codes.

    Args:
        runs: pairs of `argv`, a script and its arguments, and the file.
        timeout: seconds that each may take; one that takes longer is killed, and has the code None.

    """
    started = [start(argv, Path.cwd(), os.environ, log, log) for argv, log in runs]
    try:
        for process in started:
            process.join(timeout)
        return [process.exitcode for process in started]
    finally:
        for process in started:
            process.kill()


def _script(argv: list[str], folder: Path, environment: dict[str, str], output: Path, errors: Path) -> None:
    """Become the process of a script: its streams, folder, environment and search path, then its code."""
    gc.freeze()  # what the server imported stays, and collecting it would copy it
    for stream, file in ((1, output), (2, errors)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    multiprocessing.set_start_method("fork", force=True)  # what a fresh process has: the server's is inherited
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.argv, sys.path[:0] = argv, [str(Path(argv[0]).parent), *filter(None, paths)]
    runpy.run_path(argv[0], run_name="__main__")
