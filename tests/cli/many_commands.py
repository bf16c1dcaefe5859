"""Run by conftest.py as a script: carries out the commands of commands.json, each into a folder of its name."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import traceback
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from hydra.types import RunMode

from kd_lightning.cli.train import main


def outcome(name: str, typed: list[str]) -> dict[str, Any]:
    """Return what a shell would see: the exit code, and what is printed when Python ends."""
    placed = any(text.startswith(("resume=", "-m", "hydra.run.dir=")) for text in typed)
    place = [] if placed else [f"hydra.run.dir={name}"]
    sys.argv = ["train.py", *typed, *place]
    told = io.StringIO()
    try:
        with contextlib.redirect_stdout(told):
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        return {"code": code, "error": end.code if isinstance(end.code, str) else "", "told": told.getvalue()}
    except BaseException:
        return {"code": 1, "error": traceback.format_exc(), "told": told.getvalue()}
    return {"code": 0, "error": "", "told": told.getvalue()}


def mode_as_typed(hydra: Hydra, config_name: str | None, overrides: list[str]) -> RunMode:
    """Tell a sweep by its `-m`: Hydra composes the whole configuration once more to find that out."""
    return RunMode.MULTIRUN if {"-m", "--multirun"} & set(sys.argv) else RunMode.RUN


if __name__ == "__main__":
    Hydra.get_mode = mode_as_typed
    commands = json.loads(Path("commands.json").read_text())
    results = {name: outcome(name, typed) for name, typed in commands.items()}
    Path("results.json").write_text(json.dumps(results))
