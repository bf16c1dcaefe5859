"""Build a folder once, however many processes need it; a killed build leaves no folder that looks complete."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from filelock import FileLock, Timeout

from kd_lightning.core.checksums import damage, is_recorded, write_checksums
from kd_lightning.core.errors import DataError
from kd_lightning.core.files import sync, sync_all
from kd_lightning.core.unwritable import explained

log = logging.getLogger(__name__)


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """Return the folder of caches and fine-tuned teachers: `cache_dir`, else `$KD_CACHE`, else `~/.cache/kd_lightning`.

    Example:
        >>> cache_root("somewhere").name
        'somewhere'

    """
    return Path(cache_dir or os.environ.get("KD_CACHE") or "~/.cache/kd_lightning").expanduser()


def build_once(folder: Path, build: Callable[[Path], object]) -> bool:
    """Build `folder` by calling `build` on an empty folder beside it, unless it exists.

    The folder appears complete, by one rename, or not at all. Other processes wait meanwhile and use it; the system
    frees the lock of a process that is killed, and the next one removes what it left. A folder of which a file was cut
    or lost since is built anew, with a warning.

    Returns:
        True if it was built now, False if it existed.

    Raises:
        DataError: if the folder's parent cannot be created or written.
        WriteError: if the disk is full.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as root:
        ...     make = lambda folder: (folder / "x").write_text("1")
        ...     build_once(Path(root) / "a", make), build_once(Path(root) / "a", make)
        (True, False)

    """
    if _is_whole(folder):
        return False
    with locked(folder):
        if _is_whole(folder):
            return False
        for leftover in folder.parent.glob(f".{folder.name}.*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        with explained(folder):
            _build(folder, build)
    return True


def _is_whole(folder: Path) -> bool:
    return folder.is_dir() and damage(folder) is None


def _build(folder: Path, build: Callable[[Path], object]) -> None:
    scratch = Path(mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        scratch.chmod(0o755)  # mkdtemp makes it private; a cache may be shared
        build(scratch)
        if not is_recorded(scratch):
            write_checksums(scratch, content=False)
        sync_all(scratch)
        if folder.is_dir():
            log.warning("%s is damaged (%s) and was built anew.", folder, damage(folder))
            folder.rename(scratch.with_suffix(".old.tmp"))
        scratch.rename(folder)
        sync(folder.parent)
    finally:
        for leftover in (scratch, scratch.with_suffix(".old.tmp")):
            shutil.rmtree(leftover, ignore_errors=True)


def check_lockable(file: Path) -> None:
    """Raise an error where a lock file cannot be made or opened: `filelock` would take some of them for a held lock.

    Raises:
        OSError: saying why.

    """
    os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o644))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from building the same folder, and wait for one that does; the folder need not exist.

    Raises:
        DataError: if the folder's parent cannot be created or written.

    """
    lock = FileLock(folder.parent / f".{folder.name}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        check_lockable(Path(lock.lock_file))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("Waiting for another process that is building %s.", folder)
            lock.acquire()
    except OSError as error:
        raise DataError(f"Cannot write the cache folder {folder.parent} ({error.strerror}); set KD_CACHE.") from error
    try:
        yield
    finally:
        lock.release()
