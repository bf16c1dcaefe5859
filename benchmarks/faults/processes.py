"""Starts `train.py`, watched by a clock, and kills it: forked from this process, or as the real command.

A forked process need not import everything again, which takes most of a small run's time; in all else it begins as a
fresh one does.
"""

from __future__ import annotations

import atexit
import json
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from benchmarks.faults.moments import ARMED, LAUNCHER, POINTS, Clock, Fault

REPOSITORY = Path(__file__).resolve().parents[2]
LOOK = 0.003
"""Seconds between two looks at a process that is to be killed by this one."""


@dataclass(frozen=True)
class Place:
    """Where a run works: everything that it can write is below one folder, which is the same for every run.

    Args:
        folder: with the run's folder, caches and temporary files.
        source: a checkout of the package whose `train.py` is run.

    """

    folder: Path
    source: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a user with one thread, no hub, and caches of his own."""
        own = {name: str(self.folder / name.lower()) for name in ("KD_CACHE", "TMPDIR")}
        return {**os.environ, **own, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "110"}

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.folder / "run"

    @property
    def watch(self) -> Path:
        """Where clocks write."""
        return self.folder / "watch"


def warm_up(source: Path) -> None:
    """Import the package of a checkout with all that its command needs, so that forked processes need not."""
    sys.path.insert(0, str(source))
    import kd_lightning

    assert Path(kd_lightning.__file__).is_relative_to(source), f"kd_lightning is {kd_lightning.__file__}"
    for name in ("transformers.models.bert.modeling_bert", "transformers.models.bert.tokenization_bert",
                 "matplotlib.backends.backend_agg", "pyarrow.parquet"):  # fmt: skip
        import_module(name)
    for module in pkgutil.walk_packages(kd_lightning.__path__, "kd_lightning."):
        if ".compat" not in module.name and not module.name.endswith("__main__"):
            import_module(module.name)


def forked(place: Place, typed: Sequence[str], fault: Fault | None) -> int:
    """Start `train.py` in a process that has imported everything; return its number. Ranks import for themselves."""
    environment = _watched(place, fault)
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        _become(place, typed, fault, environment)
    return process


def _become(place: Place, typed: Sequence[str], fault: Fault | None, environment: Mapping[str, str]) -> NoReturn:
    code = 1
    try:
        os.setsid()
        output = os.open(place.folder / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(place.folder)
        os.environ.clear()
        os.environ.update(environment)
        script = str(place.source / "train.py")
        sys.argv, sys.orig_argv = [script, *typed], [sys.executable, script, *typed]
        from benchmarks.faults import probes

        probes.install(Clock(place.watch, fault))
        runpy.run_path(script, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def real(place: Place, typed: Sequence[str], fault: Fault | None) -> int:
    """Start `python train.py` as a user does, but that it is watched; return its number."""
    with (place.folder / "output").open("ab") as output:
        script = str(place.source / "train.py")
        started = subprocess.Popen(
            [sys.executable, script, *typed], cwd=place.folder, env=_watched(place, fault), stdout=output,
            stderr=output, start_new_session=True,
        )  # fmt: skip
    started.returncode = 0  # it is waited for by its number, as forked ones are
    return started.pid


def _watched(place: Place, fault: Fault | None) -> dict[str, str]:
    """Return the environment in which `site/sitecustomize.py` watches processes that are started."""
    spec = place.folder / "spec.json"
    own = {"folder": str(place.watch), "fault": fault.as_json if fault else None, "repository": str(REPOSITORY)}
    spec.write_text(json.dumps(own))
    paths = os.pathsep.join([str(Path(__file__).with_name("site")), str(place.source)])
    return {**place.environment, "PYTHONPATH": paths, "KD_FAULTS": str(spec)}


def wait(process: int, place: Place, fault: Fault | None, timeout: float) -> int | None:
    """Wait for a process to end, and kill it a while after it has come to the fault's point, if it is not to die there.

    Returns:
        Its exit code; minus the number of the signal that ended it; None if it took longer than `timeout` and was
        ended for that.

    """
    delay = fault.delay if fault is not None else None
    until = time.monotonic() + timeout
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            kill(process, place, "all")
            os.waitpid(process, 0)
            return None
        if fault is not None and delay is not None and (place.watch / ARMED).exists():
            time.sleep(delay)
            kill(process, place, fault.role)
            delay = None
        time.sleep(LOOK if delay is not None else 0.02)


def kill(process: int, place: Place, role: str) -> None:
    """Kill the process of a role, or all of a run."""
    ranks = {path.name.partition("-")[0]: _number(path) for path in place.watch.glob(f"[0-9]*{POINTS}") if _lives(path)}
    for number in {LAUNCHER: [process], "all": [process, *ranks.values()]}.get(role, [ranks.get(role, process)]):
        os.kill(number, signal.SIGKILL)


def survivors(place: Place) -> list[int]:
    """Return the processes of a run that still live."""
    return [_number(path) for path in place.folder.glob(f"watch*/*{POINTS}") if _lives(path)]


def _lives(path: Path) -> bool:
    """Tell whether the process that writes a file of points is there: numbers of dead ones are given to others."""
    try:
        opened = [os.readlink(link) for link in Path(f"/proc/{_number(path)}/fd").iterdir()]
    except OSError:
        return False
    return str(path) in opened


def _number(path: Path) -> int:
    return int(path.name.removesuffix(POINTS).partition("-")[2])
