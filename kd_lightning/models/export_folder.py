"""A folder that appears whole or not at all."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kd_lightning.core.errors import ConfigError

_OURS = (
    "config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json", "model.onnx*",
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "chat_template*",
)  # fmt: skip
"""What an export is made of; a folder with anything else in it is somebody's."""


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a new folder to write into, which takes the place of `path` if the block ends without an error.

    Raises:
        ConfigError: where `path` is a file, or a folder that holds something other than an export.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "student"
        >>> with replaced(target) as folder:
        ...     _ = (folder / "model.onnx").write_bytes(b"")
        >>> [file.name for file in target.iterdir()]
        ['model.onnx']

    """
    target = path.expanduser().resolve()
    _check_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    fresh.mkdir()
    try:
        yield fresh
        _swap(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _check_replaceable(target: Path) -> None:
    if target.is_file():
        raise ConfigError(f"Cannot export to '{target}': it is a file, and an export is a folder.")
    if not target.exists() or not any(target.iterdir()):
        return
    foreign = [file.name for file in sorted(target.iterdir()) if not _is_ours(file)]
    if foreign:
        raise ConfigError(
            f"Cannot export to '{target}': it holds '{foreign[0]}', no part of an export. Give a new folder."
        )
    if Path.cwd().is_relative_to(target):
        raise ConfigError(f"Cannot export to '{target}': it is the working folder. Give a new one.")


def _is_ours(file: Path) -> bool:
    return file.is_file() and any(file.match(pattern) for pattern in _OURS)


def _swap(fresh: Path, target: Path) -> None:
    """Rename `fresh` to `target`; what was there comes back if that fails."""
    old = fresh.with_name(f"{fresh.name}.old")
    if target.exists():
        target.rename(old)
    try:
        fresh.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
