"""Checkpoints that survive: written beside their place, synced and renamed, the one before kept; damaged ones found."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from kd_lightning.core.files import replacing, scratch_of

log = logging.getLogger(__name__)

BEFORE = ".before"
"""What the name of the checkpoint before the last one ends in."""


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes local checkpoints so that a kill or a full disk leaves the old file; Lightning copies them from `TMPDIR`.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     place = Path(folder, "last.ckpt")
        ...     DurableCheckpointIO().save_checkpoint({"step": torch.tensor(1)}, place)
        ...     int(torch.load(place, weights_only=True)["step"])
        1

    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint; other places than local files are left to Lightning."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with replacing(Path(path)) as scratch, scratch.open("wb") as file:
            torch.save(checkpoint, file)  # by way of a file of Python's, whose errors tell the cause


def before(path: Path) -> Path:
    """Return where the checkpoint is kept that `path` has replaced.

    Example:
        >>> before(Path("last.ckpt")).name
        'last.before.ckpt'

    """
    return path.with_name(f"{path.stem}{BEFORE}{path.suffix}")


def keep(path: Path) -> None:
    """Keep a checkpoint as the one before, too; it stays at `path` until the next one takes its place."""
    scratch = scratch_of(before(path))
    scratch.unlink(missing_ok=True)
    try:
        os.link(path, scratch)
    except OSError:  # a file system without links: for a moment there is only the one before
        path.replace(before(path))
    else:
        scratch.replace(before(path))
        scratch.unlink(missing_ok=True)  # still there where both names were the same file already


def resumable(path: Path) -> Path | None:
    """Return the newest whole checkpoint: `path`, or the one before it; None where there is none.

    A damaged one is skipped with a warning, and replaced by the next one that is saved.
    """
    for place in (path, before(path)):
        if place.is_file():
            if is_whole(place):
                return place
            log.warning("The checkpoint %s is damaged and skipped.", place)
    return None


def is_whole(path: Path) -> bool:
    """Tell whether a checkpoint can be read, without reading its tensors."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # a cut or changed file fails in as many ways as it has parts
        return False
    return isinstance(content, dict) and {"state_dict", "global_step"} <= content.keys()
