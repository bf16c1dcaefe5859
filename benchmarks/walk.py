"""How far a reader walks: the modules that a configuration, and then a batch, passes on its way through the package.

`python -m benchmarks.walk` traces the quickstart until the distilled student's first training step. A *stay* is an
uninterrupted run of calls into one module that are given the run's configuration as an argument; a *room* is a module
with at least one stay; *returns* are the stays beyond the first in each room. Counted as the configuration are
OmegaConf's containers and the dataclasses of the command layer (`cli`, `pipeline`), which are made from it. The batch
is followed in the same way through one `training_step`.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

COMMAND = ("kd_lightning.cli", "kd_lightning.pipeline")


class Finished(BaseException):
    """Ends the traced run after the student's first step."""


class Walk:
    """The stays of one kind of argument, in the order of the calls.

    Args:
        wanted: tells whether an argument is what is followed.

    """

    def __init__(self, wanted: Callable[[Any], bool]) -> None:
        self.wanted = wanted
        self.stays: list[str] = []

    def note(self, frame: FrameType) -> None:
        """Note a call into a module of the package that is given what is followed."""
        module = frame.f_globals.get("__name__", "")
        if not module.startswith("kd_lightning.") or frame.f_code.co_name.startswith("<"):
            return
        code = frame.f_code
        count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 4) + bool(code.co_flags & 8)
        if any(self.wanted(frame.f_locals.get(name)) for name in code.co_varnames[:count]) and (
            not self.stays or self.stays[-1] != module
        ):
            self.stays.append(module)

    @property
    def rooms(self) -> list[str]:
        """The modules, in the order in which they are first entered."""
        return list(dict.fromkeys(self.stays))


def is_configuration(value: Any) -> bool:
    """Tell whether a value is the run's configuration, a part of it, or a settings object made from it."""
    from omegaconf import DictConfig, ListConfig

    made = dataclasses.is_dataclass(value) and type(value).__module__.startswith(COMMAND)
    return isinstance(value, DictConfig | ListConfig) or made


def is_batch(value: Any) -> bool:
    """Tell whether a value is a batch of the quickstart."""
    return isinstance(value, dict) and "input_ids" in value


def trace(run_dir: Path) -> tuple[Walk, Walk]:
    """Run the quickstart until the distilled student's first step, and return the two walks."""
    from kd_lightning.cli import train

    configuration, batch = Walk(is_configuration), Walk(is_batch)

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            step = frame.f_code.co_name == "training_step" and frame.f_globals["__name__"].startswith("kd_lightning.")
            if step and frame.f_locals["self"].teacher is not None:
                batch.stays.clear()
                batch.note(frame)
                profile.step = frame  # type: ignore[attr-defined]
            elif profile.step is not None:  # type: ignore[attr-defined]
                batch.note(frame)
            else:
                configuration.note(frame)
        elif event == "return" and frame is profile.step:  # type: ignore[attr-defined]
            sys.setprofile(None)
            raise Finished

    profile.step = None  # type: ignore[attr-defined]
    sys.argv = ["train.py", f"hydra.run.dir={run_dir}", "debug=fast"]
    sys.setprofile(profile)
    try:
        train.main()
    except Finished:
        pass
    finally:
        sys.setprofile(None)
    return configuration, batch


def main() -> None:
    """Print both walks."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KD_CACHE"] = f"{folder}/cache"
        configuration, batch = trace(Path(folder) / "run")
    for name, walk in (("configuration", configuration), ("batch", batch)):
        rooms = walk.rooms
        print(f"{name}: {len(walk.stays)} stays in {len(rooms)} rooms, {len(walk.stays) - len(rooms)} returns")
        for room in rooms:
            print(f"  {walk.stays.count(room):3d}  {room}")


if __name__ == "__main__":
    main()
