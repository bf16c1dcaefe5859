"""What the files of a finished folder must be: sizes, and checksums of what no reader checks, written beside them."""

from __future__ import annotations

import json
import os
import zlib
from functools import lru_cache
from pathlib import Path

from kd_lightning.core.files import write_text

CHECKSUMS = "checksums.json"


def write_checksums(folder: Path, content: bool = True) -> None:
    """Record the files of a folder.

    Args:
        folder: which is complete.
        content: record a CRC-32 of each file too, which finds what was changed and not only what was cut; reading the
            folder then takes as long as reading it whole.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as name:
        ...     _ = Path(name, "vocab.txt").write_text("a\\nb\\n")
        ...     write_checksums(Path(name))
        ...     whole = damage(Path(name))
        ...     _ = Path(name, "vocab.txt").write_text("a\\n")
        ...     whole, damage(Path(name))
        (None, "'vocab.txt' has 2 bytes instead of 4")

    """
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS):
        files[str(path.relative_to(folder))] = {"bytes": path.stat().st_size} | (
            {"crc32": checksum(path)} if content else {}
        )
    write_text(folder / CHECKSUMS, json.dumps({"files": files}, indent=2))  # without its last byte it is no JSON


def damage(folder: Path) -> str | None:
    """Return what is wrong with a recorded folder; None: nothing, or it has no record."""
    try:
        files = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        return f"'{CHECKSUMS}' is damaged: {error}"
    for name, info in files.items():
        path = folder / name
        if not path.is_file():
            return f"'{name}' is missing"
        found = path.stat()
        if found.st_size != info["bytes"]:
            return f"'{name}' has {found.st_size:,} bytes instead of {info['bytes']:,}"
        if "crc32" in info and _checksum(path, found.st_mtime_ns, found.st_size) != info["crc32"]:
            return f"'{name}' has changed since it was written (if that was meant, delete {CHECKSUMS})"
    return None


@lru_cache(maxsize=1024)
def _checksum(path: Path, changed: int, size: int) -> int:
    """Return a file's checksum, which is read once as long as the file is the same."""
    return checksum(path)


def checksum(path: Path, chunk: int = 1 << 24) -> int:
    """Return the CRC-32 of a file: finds damage, not malice, and is several times faster than a disk."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(chunk):
            value = zlib.crc32(block, value)
    return value


def is_recorded(folder: Path) -> bool:
    """Tell whether a folder has a record of its files."""
    return os.path.isfile(folder / CHECKSUMS)
