"""Arguments that most benchmarks have."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.models import SIZES


def parser(name: str, doc: str | None, *, rounds: int | None, device: bool = True) -> argparse.ArgumentParser:
    """Return a parser with `--json`, `--threads`, `--tiny`, and where they make sense `--rounds` and `--device`.

    Args:
        name: of the benchmark, and of the file it writes.
        doc: its module's docstring.
        rounds: the default; None for a benchmark that has none.
        device: whether it can run on a GPU.

    """
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", type=Path, default=Path("outputs/benchmarks") / f"{name}.json", help="file to write")
    made.add_argument("--threads", type=int, default=None, help="CPU threads of torch; as it finds them by default")
    made.add_argument("--tiny", action="store_true", help="very small models: does it run at all?")
    if rounds is not None:
        made.add_argument("--rounds", type=int, default=rounds, help=f"timed rounds of each contender ({rounds})")
    if device:
        made.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    return made


def add_shape(made: argparse.ArgumentParser, *, batch: int, length: int, teacher: str = "bert-base") -> None:
    """Add `--teacher`, `--batch`, `--length` and `--padding`."""
    made.add_argument("--teacher", choices=tuple(SIZES), default=teacher, help=f"its size ({teacher})")
    made.add_argument("--batch", type=int, default=batch, help=f"rows per batch ({batch})")
    made.add_argument("--length", type=int, default=length, help=f"tokens of the longest row ({length})")
    made.add_argument("--padding", type=float, default=0.1, help="the shortest row is shorter by this share (0.1)")


def parse(made: argparse.ArgumentParser, typed: Sequence[str] | None, **tiny: Any) -> argparse.Namespace:
    """Parse, set the number of threads, and with `--tiny` put small values in the place of what was typed.

    Args:
        made: the parser.
        typed: arguments, or None for the command line's.
        tiny: values for `--tiny`.

    """
    found = made.parse_args(typed)
    if found.threads is not None:
        torch.set_num_threads(found.threads)
    if found.tiny:
        vars(found).update(tiny)
    return found
