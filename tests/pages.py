"""Reads README.md and the pages of docs/, and runs one from top to bottom: `python tests/pages.py PAGE FOLDER`.

What is in a page's fenced blocks:

- A block below a line that ends with a path in backticks and a colon is that file; files are written first.
- Other `python` blocks run one after the other in one namespace, in the folder with the files.
- Each line of a `bash` block that starts `python train.py` or `kd-train` must compose. In a block below `<!-- run -->`
  these lines are run, at their place between the python blocks.
- Nothing is done with a block below `<!-- not run -->`.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"(?P<before>[^\n]*)\n+```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)
FILE = re.compile(r"`([\w./-]+\.\w+)`:$")
STARTS = (["python", "train.py"], ["kd-train"])


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and the line above it."""

    language: str
    text: str
    before: str

    @property
    def file(self) -> str | None:
        """The file that the block is, None where it is none."""
        found = FILE.search(self.before)
        return found and found[1]

    @property
    def commands(self) -> list[list[str]]:
        """What follows `python train.py` or `kd-train` in each line of a shell block; comments are left out."""
        if self.language != "bash":
            return []
        lines = [shlex.split(line, comments=True) for line in self.text.replace("\\\n", " ").splitlines()]
        lines = [words[1:] if words[:1] and re.match(r"[A-Z_]+=", words[0]) else words for words in lines]
        return [words[len(start) :] for words in lines for start in STARTS if words[: len(start)] == start]


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, without those that are marked as not run."""
    found = FENCE.finditer("\n" + page.read_text(encoding="utf-8"))
    every = [Block(m["language"], m["text"], m["before"].strip()) for m in found]
    return [block for block in every if block.before != "<!-- not run -->"]


def write_files(page: Path, folder: Path) -> None:
    """Write the files that a page shows."""
    for block in blocks(page):
        if block.file is not None:
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(block.text, encoding="utf-8")


def run_page(page: Path) -> None:
    """Run the blocks of a page in the working folder, where its files are."""
    namespace: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page):
        if block.language == "python" and block.file is None:
            exec(compile(block.text, page.name, "exec"), namespace)
        for words in block.commands if block.before == "<!-- run -->" else ():
            run_command(words)


def run_command(words: list[str]) -> None:
    """Run the command in this process, and raise an error where it fails."""
    from kd_lightning.cli.train import main

    sys.argv = ["train.py", *words]
    try:
        main()
    except SystemExit as end:
        if end.code not in (None, 0):
            raise RuntimeError(f"kd-train {shlex.join(words)} ended with {end.code}") from end


if __name__ == "__main__":
    shown, place = (Path(typed).resolve() for typed in sys.argv[1:])
    os.chdir(place)
    sys.path[0] = str(place)  # instead of the folder of this file
    write_files(shown, place)
    run_page(shown)
