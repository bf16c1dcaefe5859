"""Ranks of several machines that wait for rank 0 learn from a file in the run's folder whether it still works."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kd_lightning.core.errors import KDError

HEARTBEAT = ".rank0"
"""The file in a run's folder that rank 0 writes every few seconds as long as it works."""

INTERVAL = 5.0
"""Seconds between two heartbeats."""

SILENCE = 120.0
"""Seconds without a new heartbeat after which rank 0 counts as gone; a shared file system may show a file late."""


@contextmanager
def heartbeat(run_dir: Path, interval: float = INTERVAL) -> Iterator[None]:
    """Write the heartbeat of this process, rank 0, while the block runs."""
    file, ended = run_dir / HEARTBEAT, threading.Event()

    def beat() -> None:
        while True:
            with suppress(OSError):  # a full disk is for the run itself to report
                file.write_text(str(time.time_ns()))
            if ended.wait(interval):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        file.unlink(missing_ok=True)


def wait_for(path: Path, run_dir: Path, silence: float = SILENCE, interval: float = 0.5) -> None:
    """Wait until rank 0 has written a file.

    torchrun ends this process when rank 0 fails on the same machine, but may not when it fails on another.

    Args:
        path: the file.
        run_dir: the run's folder.
        silence: seconds without a heartbeat after which this ends.
        interval: seconds between two looks.

    Raises:
        KDError: rank 0 has stopped without writing the file.

    """
    last, since = _read(run_dir), time.monotonic()
    while not path.exists():
        time.sleep(interval)
        if (now := _read(run_dir)) != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > silence:
            raise KDError(
                f"Rank 0, on the first machine, has stopped: it has not written {path}, and gave no sign for "
                f"{silence:.0f} seconds. Its own output says why."
            )


def _read(run_dir: Path) -> str | None:
    with suppress(OSError):
        return (run_dir / HEARTBEAT).read_text()
    return None
