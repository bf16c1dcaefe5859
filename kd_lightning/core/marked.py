"""Texts that end in a mark: half a YAML file is often valid YAML, and is to be found out all the same."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

from kd_lightning.core.errors import DamagedError
from kd_lightning.core.files import write_text

_MARK = re.compile(r"# complete: ([0-9a-f]{8})\n?\Z")


def write_marked(path: Path, text: str) -> None:
    """Write YAML, atomically, with a comment as its last line that only the whole text has."""
    text = text if text.endswith("\n") else text + "\n"
    write_text(path, f"{text}# complete: {_sum(text)}\n")


def read_marked(path: Path) -> str:
    """Read what `write_marked` wrote.

    Raises:
        DamagedError: if it was cut or changed.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder, "a.yaml")
        ...     write_marked(file, "a: 1\\nb: 2\\n")
        ...     read_marked(file).splitlines()
        ['a: 1', 'b: 2', '# complete: 79c565c5']

    """
    text = path.read_text(encoding="utf-8", errors="replace")
    mark = _MARK.search(text)
    if mark is None or mark.group(1) != _sum(text[: mark.start()]):
        raise DamagedError(f"The file {path} is damaged: it was cut or changed since it was written.")
    return text


def _sum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
