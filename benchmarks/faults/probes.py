"""What tells a clock where a run is: every file operation, batch and stage, whatever the package's own code is.

Python's and torch's functions are wrapped, and none of kd_lightning's, so that other versions of it can be watched. One
constant of its is changed, the size of a cache's files.
"""

from __future__ import annotations

import builtins
import io
import os
import resource
import signal
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from benchmarks.faults.moments import Clock
from benchmarks.faults.names import plain

SYSTEM = ("replace", "rename", "unlink", "remove", "rmdir", "mkdir", "fsync")
"""Functions of `os` that change what a disk has."""

HOOKS = ("on_train_batch_start", "on_train_batch_end", "on_validation_batch_end", "on_validation_end",
         "on_train_epoch_end", "on_train_end")  # fmt: skip
"""Moments of training, before and after the callbacks."""

ELSEWHERE = ("/dev/", "/proc/", "/sys/")


def install(clock: Clock) -> None:
    """Watch this process from now on."""
    import lightning.pytorch as pl
    import safetensors.torch
    import torch
    from lightning.pytorch.trainer import call

    for name in SYSTEM:
        setattr(os, name, _operation(clock, getattr(os, name), name))
    opened = _opening(clock, builtins.open)
    builtins.open, io.open = opened, opened
    torch.save = _operation(clock, torch.save, "torch.save", place=1, torn=_torn_checkpoint)
    safetensors.torch.serialize_file = _operation(
        clock, safetensors.torch.serialize_file, "safetensors", place=1, torn=lambda *_: limit_files(4096)
    )
    call._call_callback_hooks = _hook(clock, call._call_callback_hooks)
    for name in ("fit", "validate", "predict"):
        setattr(pl.Trainer, name, _phases(clock, getattr(pl.Trainer, name), name))
    _many_shards()


def _many_shards() -> None:
    """Have small caches written in several files, as large ones are."""
    try:
        from kd_lightning.teachers.cache import shard
    except ImportError:  # of a version that has it elsewhere
        return
    shard.SHARD_BYTES = 2048


# -- files -----------------------------------------------------------------------------------------------------------


def _operation(
    clock: Clock,
    function: Callable[..., Any],
    name: str,
    place: int = 0,
    torn: Callable[..., None] | None = None,
) -> Callable[..., Any]:
    """Wrap a function that writes: a point before and after it, and one where it is cut in the middle of a file."""

    @wraps(function)
    def wrapped(*given: Any, **named: Any) -> Any:
        path = _path(given[place]) if len(given) > place else None
        if path is None or _is_elsewhere(path, clock):
            return function(*given, **named)
        clock.point(f"{name} {plain(path.name)}, before")
        if torn is not None:
            clock.point(f"{name} {plain(path.name)}, half", lambda: torn(*given))
        result = function(*given, **named)
        clock.point(f"{name} {plain(path.name)}, after")
        return result

    return wrapped


def _opening(clock: Clock, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `open`: where a file is opened to be written there are points before, after, and after its first bytes."""

    @wraps(function)
    def wrapped(file: Any, mode: str = "r", *given: Any, **named: Any) -> Any:
        path = None if isinstance(file, int) else _path(file)
        if path is None or not set(mode) & set("wax+") or _is_elsewhere(path, clock):
            return function(file, mode, *given, **named)
        clock.point(f"open {plain(path.name)}, before")
        result = function(file, mode, *given, **named)
        clock.point(f"open {plain(path.name)}, after")
        there = os.fstat(result.fileno()).st_size
        clock.point(f"open {plain(path.name)}, half", lambda: limit_files(there + 20))
        return result

    return wrapped


def _path(given: Any) -> Path | None:
    """Return a file's path, of a number that of an open file; None for anything else."""
    if isinstance(given, int):
        try:
            return Path(os.readlink(f"/proc/self/fd/{given}"))
        except OSError:
            return None
    return Path(os.fsdecode(given)) if isinstance(given, str | bytes | os.PathLike) else None


def _is_elsewhere(path: Path, clock: Clock) -> bool:
    return str(path).startswith((*ELSEWHERE, clock.folder))


def limit_files(size: int) -> None:
    """Have the system end this process when it writes a file beyond a size: the file is then cut there."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _torn_checkpoint(content: Any, place: Any, *_: Any) -> None:
    import torch

    buffer = io.BytesIO()
    torch.save.__wrapped__(content, buffer)  # type: ignore[attr-defined]
    limit_files(buffer.tell() // 2)


# -- training --------------------------------------------------------------------------------------------------------


def _hook(clock: Clock, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def wrapped(trainer: Any, name: str, *given: Any, **named: Any) -> Any:
        if name in HOOKS:
            clock.point(f"{name}, before")
        result = function(trainer, name, *given, **named)
        if name in HOOKS:
            clock.point(f"{name}, after")
        return result

    return wrapped


def _phases(clock: Clock, function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Wrap a method of the Trainer: which phase it is is told by its name and the stage's folder."""

    @wraps(function)
    def wrapped(trainer: Any, *given: Any, **named: Any) -> Any:
        phase = {"validate": "evaluate", "predict": "cache"}.get(name) or fitted(trainer.default_root_dir)
        clock.enter(phase)
        result = function(trainer, *given, **named)
        clock.enter({"fine_tune": "export", "evaluate": "export", "cache": "cache"}.get(phase, "evaluate"))
        return result

    return wrapped


def fitted(folder: str) -> str:
    """Return the phase of a training by its folder: that of a student's stage, or else a teacher is trained.

    Example:
        >>> fitted("/a/stages/alone"), fitted("/a/stages/student"), fitted("/cache/teachers/.name.training")
        ('baseline', 'distil', 'fine_tune')

    """
    place = Path(folder)
    names = {"alone": "baseline", "student": "distil"}
    return names.get(place.name, "fine_tune") if place.parent.name == "stages" else "fine_tune"
