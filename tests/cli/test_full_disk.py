"""A write that cannot be finished is one sentence, leaves nothing, and the run goes on when there is room again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kd_lightning.core.errors import WriteError
from kd_lightning.core.files import write_json, write_text
from kd_lightning.core.marked import write_marked
from kd_lightning.core.unwritable import cause_of
from kd_lightning.training.checkpoint_io import DurableCheckpointIO
from kd_lightning.training.csv_logger import ResumableCSVLogger

from .test_cut_files import carried_out

BIG = {"state_dict": {"weight": torch.zeros(100_000)}, "global_step": 1}


def log(path: Path) -> None:
    logger = ResumableCSVLogger(path.parent)
    logger.experiment.file = path
    logger.log_metrics({"loss": 1.0}, 0)
    logger.save()


@pytest.mark.parametrize(
    "write",
    [
        lambda path: DurableCheckpointIO().save_checkpoint(BIG, path),
        lambda path: write_text(path, "text"),
        lambda path: write_json(path, {"a": 1}),
        lambda path: write_marked(path, "a: 1"),
        log,
    ],
    ids=["checkpoint", "text", "json", "marked", "csv"],
)
def test_on_a_full_disk_a_file_is_named_and_nothing_is_left(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    path = tmp_path / "file"
    scratch = tmp_path / f".file.{os.getpid()}.tmp"
    scratch.symlink_to("/dev/full")  # a device on which there is never any room
    with pytest.raises(WriteError, match=rf"Cannot write {path} \(No space left on device\): make room, and type"):
        write(path)
    assert [name for name in os.listdir(tmp_path) if name != "csv"] == []


def test_what_libraries_say_of_a_full_disk_is_understood() -> None:
    assert cause_of(Exception("Error while serializing: No space left on device (os error 28)")) == errno.ENOSPC
    assert cause_of(ValueError("something else")) is None


@pytest.mark.slow
def test_a_limit_is_reached_in_the_midst_of_some_writes(
    films_root: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    cases = ["the configuration", "the last checkpoint", "the student", "a result"]
    found = carried_out("full_disk.py", films_root, environment, tmp_path, {"cases": cases})
    assert list(found) == cases
    assert {case: what for case, what in found.items() if what.startswith("WRONG")} == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_limit_is_reached_in_the_midst_of_every_write(
    films_root: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    found = carried_out("full_disk.py", films_root, environment, tmp_path, {"cases": []})
    assert {case: what for case, what in found.items() if what.startswith("WRONG")} == {}
    assert len(found) == 14
