"""Writing files that later runs read: each is beside its place, synced and renamed, so it is complete or not there."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_lightning.core.errors import DamagedError
from kd_lightning.core.unwritable import explained

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file that a kill or a power failure leaves as it was, or complete; make its folder if need be."""
    with replacing(path) as scratch:
        scratch.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a new file beside `path` to write; it is synced and takes the place of `path` at the end, unless that fails.

    Raises:
        WriteError: if it cannot be written, as on a full disk; `path` is then as it was.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "a.txt") as scratch:
        ...         _ = scratch.write_text("b")
        ...     [path.name for path in Path(folder).iterdir()]
        ['a.txt']

    """
    scratch = scratch_of(path)
    with explained(path, every_cause=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield scratch
            sync(scratch)
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
        sync(path.parent)


def scratch_of(path: Path) -> Path:
    """Return where this process writes what will take the place of `path`; `remove_leftovers` finds it."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_leftovers(folder: Path, name: str = "*", exclusive: bool = False) -> None:
    """Remove what killed writes left beside files of a folder, and below it.

    Args:
        folder: where to look.
        name: of the files that were written; a pattern.
        exclusive: whether no other process can be writing there; leftovers then go even if their process number lives.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, f".a.txt.{2**30}.tmp").write_text("ha")  # no process has such a number
        ...     remove_leftovers(Path(folder))
        ...     list(Path(folder).iterdir())
        []

    """
    for leftover in folder.rglob(f".{name}.*.tmp"):
        number = leftover.name.split(".")[-2]
        if number.isdigit() and (exclusive or not is_alive(int(number))):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def is_alive(process: int) -> bool:
    """Tell whether a process is there."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user, and so there
        pass
    return True


def sync(path: Path) -> None:
    """Have the system write a file's content, or which files a folder has, to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def sync_all(folder: Path) -> None:
    """Have the system write a folder with everything in it to the disk."""
    for place, _, files in os.walk(folder):
        for name in files:
            sync(Path(place, name))
        sync(Path(place))


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, atomically.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_text(Path(folder) / "sub" / "a.txt", "b")
        ...     (Path(folder) / "sub" / "a.txt").read_text()
        'b'

    """
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically; infinite numbers and not-a-number, which JSON does not have, as null."""
    write_text(path, json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def read_json(path: Path, advice: str = "") -> dict[str, Any]:
    """Return the object in a JSON file that was written by `write_json`.

    Args:
        path: the file.
        advice: the end of the error, what to do about a damaged one.

    Raises:
        DamagedError: it cannot be read, is no JSON, or holds something else than an object.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_json(Path(folder) / "a.json", {"b": 1})
        ...     read_json(Path(folder) / "a.json")
        {'b': 1}

    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no JSON, or no UTF-8
        reason = error.strerror if isinstance(error, OSError) else "it is no JSON"
        raise DamagedError(f"The file {path} is damaged and cannot be read ({reason}). {advice}".rstrip()) from error
    if not isinstance(value, dict):
        raise DamagedError(f"The file {path} is damaged: it holds no JSON object. {advice}".rstrip())
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, atomically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # a heavy import

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    write_bytes(path, buffer.getvalue())
