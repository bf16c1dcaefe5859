"""Tables and figures in Markdown files that commands print, so that none is typed by hand and none grows stale.

python -m benchmarks.drawn [FILE.md …]

writes what each command prints between its marker and the end; tests compare the two. Commands are run in this process,
from the folder it was started in; without files, those of RESULTS.md and the docs:

    <!-- drawn by: python -m benchmarks.methods benchmarks/data/cifar10_small.csv -->
    <!-- end -->
"""

from __future__ import annotations

import argparse
import importlib
import io
import re
import shlex
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

MARKED = re.compile(
    r"^(?P<start><!-- drawn by: (?P<command>[^\n]*?) -->)\n(?P<content>.*?)^<!-- end -->$", re.MULTILINE | re.DOTALL
)
START = re.compile(r"^<!-- drawn by:", re.MULTILINE)


def redraw(text: str) -> str:
    """Return a text with what its commands print now.

    Raises:
        ValueError: if a marker has no end, or a command is none of this package.

    """
    if len(START.findall(text)) != len(MARKED.findall(text)) or any(START.search(m["content"]) for m in _blocks(text)):
        raise ValueError("A marker `<!-- drawn by: … -->` has no `<!-- end -->` of its own.")
    return MARKED.sub(lambda found: f"{found['start']}\n{printed(found['command'])}\n<!-- end -->", text)


def stale(text: str) -> list[str]:
    """Return the commands that print something else than what stands there."""
    redrawn = _blocks(redraw(text))
    return [old["command"] for old, new in zip(_blocks(text), redrawn, strict=True) if old["content"] != new["content"]]


def marked_files() -> list[Path]:
    """Return RESULTS.md and all pages of the docs, from the repository's folder."""
    return [Path("benchmarks/RESULTS.md"), *sorted(Path("docs").rglob("*.md"))]


def _blocks(text: str) -> list[re.Match[str]]:
    return list(MARKED.finditer(text))


def printed(command: str) -> str:
    """Return what `python -m benchmarks.NAME …` prints.

    Raises:
        ValueError: if it is another command, or one that draws a picture.

    """
    found = re.fullmatch(r"python -m (benchmarks\.\w+)(?P<arguments>.*)", command)
    if found is None or "--picture" in command:
        raise ValueError(f"Expected `python -m benchmarks.NAME …` without a picture but got `{command}`.")
    with redirect_stdout(io.StringIO()) as out:
        importlib.import_module(found[1]).main(shlex.split(found["arguments"]))
    return out.getvalue().strip("\n")


def main(typed: Sequence[str] | None = None) -> None:
    """Write files anew."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.drawn", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="*", help="Markdown files (RESULTS.md and the docs)")
    for file in parser.parse_args(typed).files or marked_files():
        text = file.read_text(encoding="utf-8")
        if (drawn := redraw(text)) != text:
            file.write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
