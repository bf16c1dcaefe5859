"""What asks a run to stop: SIGINT, SIGTERM and SIGUSR1, while it trains or not."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from kd_lightning.core.errors import Stopped
from kd_lightning.training.callbacks.last_checkpoint import SIGNALS

Handler: TypeAlias = Callable[[int, Any], None]


def stop(number: int, frame: Any) -> None:
    """End at once: there is nothing to save outside of a training.

    Raises:
        Stopped: always.

    """
    raise Stopped(number)


@contextmanager
def raised(handler: Handler = stop) -> Iterator[None]:
    """Have a handler called for every signal that asks to stop; in another thread than the main one nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
