"""What a stage is: a named step of a run with a folder of its own and a result that is written last."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from torch import nn

from kd_lightning.core.errors import ConfigError, DamagedError
from kd_lightning.core.files import read_json
from kd_lightning.core.version import VERSION, is_readable
from kd_lightning.pipeline.settings import RunSettings

log = logging.getLogger(__name__)

Made: TypeAlias = dict[str, tuple[dict[str, nn.Module], Any]]
"""What a stage makes, untrained: task → models by name, and the processor saved with them."""


class Stage(ABC):
    """One step of a run. A run is an ordered list of them: the group `plan`.

    A stage is finished when its folder, `stages/NAME`, has a `result.json`, which is written last; a run that was
    killed repeats only the stages that have none. Results with `metrics` become entries of `metrics.json` and rows of
    the final table, under the stage's name.

    To add one, write a subclass with `run`, in a file of its own, and name it in a YAML of the group `plan`.

    Args:
        name: of its folder and of its entry in `metrics.json`.
        enabled: whether this run has it.

    """

    inputs: tuple[str, ...] = ()
    """The stages whose results it reads; those that this run has come before it."""

    needs_teacher: ClassVar[bool] = False
    """Whether a run in which a task has no teacher goes without this stage."""

    one_process: ClassVar[bool] = False
    """Whether it always runs in one process, as stages do whose outcome other runs share."""

    def __init__(self, name: str, enabled: bool = True) -> None:
        self.name = name
        self.enabled = enabled

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @abstractmethod
    def run(self, settings: RunSettings, run_dir: Path) -> dict[str, Any]:
        """Do the work in this process (one of several, under DDP) and return the result, as JSON takes it.

        Args:
            settings: the run's settings.
            run_dir: the run's folder.

        """

    @property
    def refers(self) -> bool:
        """Whether it names other stages, with which it is checked before the first one begins."""
        return False

    def check(self, settings: RunSettings, made: Mapping[str, Made]) -> Made:
        """Raise an error where settings and models do not go together, before the first stage begins.

        Args:
            settings: of this stage.
            made: what earlier stages are going to make, untrained, by stage.

        Returns:
            What this stage is going to make, untrained; nothing by default.

        """
        return {}

    def is_done(self, run_dir: Path) -> bool:
        """Return whether the stage is finished in a run's folder."""
        return read_result(run_dir, self.name) is not None

    def check_own(self, run_dir: Path) -> None:  # noqa: B027 - not every stage has such files
        """Raise an error where what a finished stage left in the run's folder was damaged since."""

    def check_outputs(self, run_dir: Path) -> None:  # noqa: B027 - most outputs are in the run's folder
        """Remove the result where outputs that a later stage still needs are gone, so that it runs again."""


def stage_folder(run_dir: Path, name: str) -> Path:
    """Return where a stage has its checkpoints, curves and result."""
    return run_dir / "stages" / name


def read_result(run_dir: Path, name: str) -> dict[str, Any] | None:
    """Return the result of a finished stage, None while it is not finished.

    Raises:
        DamagedError: it cannot be read.
        ConfigError: it holds values that cannot be, or was written by another version.

    """
    path, advice = stage_folder(run_dir, name) / "result.json", f"Delete it, and the stage '{name}' runs again."
    if not path.exists():
        return None
    result = read_json(path, advice)
    if not is_readable(written_by := result.get("kd_version")):
        raise ConfigError(f"{path} was written by kd_lightning {written_by}, and this is {VERSION}. {advice}")
    for key, kind in KINDS.items():
        if not isinstance(values := result.get(key, {}), dict) or not all(isinstance(v, kind) for v in values.values()):
            raise ConfigError(f"{path} is damaged: '{key}' cannot be {values!r}. {advice}")
    if not isinstance(seconds := result.get("seconds"), int | float):
        raise ConfigError(f"{path} is damaged: 'seconds' cannot be {seconds!r}. {advice}")
    return result


KINDS: dict[str, Any] = {"metrics": float | int | None, "selection": float | int | None, "folders": str}
"""What mappings in a result hold: an undefined metric is null."""


def drop_damaged(path: Path) -> None:
    """Remove a file that was cut, with a warning, so that what writes it runs again."""
    try:
        if path.is_file():
            read_json(path)
    except DamagedError as error:
        log.warning("%s It is made again.", error)
        path.unlink()
