"""Names of files without what differs from run to run: numbers of processes, and letters drawn at random."""

from __future__ import annotations

import re

CHANGING = (
    (re.compile(r"\.[0-9a-f]{32}"), ".#"),
    (re.compile(r"\.\d+\.tmp$"), ".#.tmp"),
    (re.compile(r"\.[a-z0-9_]{8}\.tmp$"), ".#.tmp"),
    (re.compile(r"^tmp[a-z0-9_]{8}"), "tmp#"),
    (re.compile(r"^\.tmp[A-Za-z0-9_]+"), ".tmp#"),
)


def plain(name: str) -> str:
    """Return a file's name with a mark in the place of what differs.

    Example:
        >>> plain(".last.ckpt.4711.tmp"), plain("tmpab12_3x9"), plain("last.ckpt")
        ('.last.ckpt.#.tmp', 'tmp#', 'last.ckpt')

    """
    for pattern, mark in CHANGING:
        name = pattern.sub(mark, name)
    return name
