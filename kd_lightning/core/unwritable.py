"""What a full disk or a limit makes of a write: one sentence that names the file and the cause."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kd_lightning.core.errors import KDError, WriteError

ROOM = "make room, and type the same again: it goes on from what is there"

ADVICE = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EFBIG: "raise the limit (ulimit -f unlimited), and type the same again: it goes on from what is there",
    errno.EROFS: "give a folder that can be written",
    errno.EIO: "look after the disk, or give a folder on another one",
}
"""What to do, by the cause of a write that failed; other causes may be those of something that is read meanwhile."""


@contextmanager
def explained(path: Path, every_cause: bool = False) -> Iterator[None]:
    """Raise one sentence where the block cannot write a file or folder, whichever library writes it.

    Args:
        path: what is written.
        every_cause: whether any `OSError` is one of writing, as where nothing is read meanwhile.

    Raises:
        WriteError: naming the path and the system's words for the cause.

    Example:
        >>> with explained(Path("runs/last.ckpt")):
        ...     raise OSError(errno.ENOSPC, "…")
        Traceback (most recent call last):
        ...
        kd_lightning.core.errors.WriteError: Cannot write runs/last.ckpt (No space left on device): make room, and \
type the same again: it goes on from what is there.

    """
    try:
        yield
    except KDError:
        raise
    except Exception as error:
        cause = cause_of(error)
        if cause in ADVICE or (every_cause and isinstance(error, OSError) and cause is not None):
            advice = ADVICE.get(cause or 0, "give a folder that can be written")
            raise WriteError(f"Cannot write {path} ({os.strerror(cause or 0)}): {advice}.") from error
        raise


def cause_of(error: BaseException | None) -> int | None:
    """Return the system's number of what went wrong in a write, None where it was something else.

    PyTorch raises an error of its own while it handles the system's; safetensors and tokenizers write its number into
    their message.

    Example:
        >>> cause_of(RuntimeError("I/O error: No space left on device (os error 28)")) == errno.ENOSPC
        True

    """
    if isinstance(error, OSError):
        return error.errno
    if error is None:
        return None
    if found := re.search(r"\(os error (\d+)\)", str(error)):
        return int(found.group(1))
    return cause_of(error.__context__) if "inline_container" in str(error) else cause_of(error.__cause__)
