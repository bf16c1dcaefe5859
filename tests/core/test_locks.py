from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

import kd_lightning as kd
from kd_lightning.core import locks
from kd_lightning.core.checksums import CHECKSUMS
from kd_lightning.core.errors import DataError
from kd_lightning.core.locks import build_once, cache_root

fork = multiprocessing.get_context("fork")  # a spawned process would import everything first


def slow_build(folder: Path, marks: Path, seconds: float) -> bool:
    def build(scratch: Path) -> None:
        (marks / f"started-{os.getpid()}").touch()
        (scratch / "half").write_text("x")
        time.sleep(seconds)
        (scratch / "whole").write_text("y")

    return build_once(folder, build)


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def wait_for(condition) -> None:
    while not condition():  # the limit is pytest's, for hangs
        time.sleep(0.02)


def test_two_processes_build_once_and_both_see_the_complete_folder(tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    workers = [fork.Process(target=slow_build, args=(tmp_path / "c" / "a", marks, 0.5)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(600)
        assert worker.exitcode == 0
    assert len(visible(marks)) == 1
    assert visible(tmp_path / "c") == ["a"]
    assert visible(tmp_path / "c" / "a") == [CHECKSUMS, "half", "whole"]


def test_a_killed_builder_leaves_nothing_and_the_next_builds_again(tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    victim = fork.Process(target=slow_build, args=(tmp_path / "c" / "a", marks, 600.0))
    victim.start()
    wait_for(lambda: visible(marks))
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(600)
    assert not (tmp_path / "c" / "a").exists()
    assert slow_build(tmp_path / "c" / "a", marks, 0.0)
    assert visible(tmp_path / "c") == ["a"]
    assert visible(tmp_path / "c" / "a") == [CHECKSUMS, "half", "whole"]


@pytest.mark.parametrize("change", [
    lambda file: file.write_text("x"),
    lambda file: file.unlink(),
    lambda file: (file.parent / CHECKSUMS).write_text("{"),
])  # fmt: skip
def test_a_folder_with_a_cut_or_lost_file_is_built_anew_with_a_warning(tmp_path, change, caplog):
    def build(scratch: Path) -> None:
        (scratch / "numbers").write_text("xyz")

    assert build_once(tmp_path / "a", build)
    change(tmp_path / "a" / "numbers")
    assert build_once(tmp_path / "a", build)
    assert not build_once(tmp_path / "a", build)
    assert f"{tmp_path / 'a'} is damaged ('" in caplog.text
    assert (tmp_path / "a" / "numbers").read_text() == "xyz"
    assert visible(tmp_path) == ["a"]


def test_a_failed_build_leaves_nothing(tmp_path):
    def build(scratch: Path) -> None:
        (scratch / "half").touch()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        build_once(tmp_path / "a", build)
    assert visible(tmp_path) == []


def hold_until(folder: Path, started: Path, release: Path) -> None:
    def build(scratch: Path) -> None:
        started.touch()
        wait_for(release.exists)

    build_once(folder, build)


def test_waiting_is_logged(tmp_path, monkeypatch):
    started, release, messages = tmp_path / "started", tmp_path / "release", []

    def info(message: str, *values: object) -> None:
        messages.append(message % values)
        release.touch()

    builder = fork.Process(target=hold_until, args=(tmp_path / "a", started, release))
    builder.start()
    wait_for(started.exists)
    monkeypatch.setattr(locks.log, "info", info)
    assert not build_once(tmp_path / "a", lambda scratch: pytest.fail("built twice"))
    builder.join(600)
    assert messages == [f"Waiting for another process that is building {tmp_path / 'a'}."]


def test_a_folder_that_cannot_be_created_raises(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"Cannot write the cache folder .* set KD_CACHE"):
        build_once(tmp_path / "file" / "a", lambda scratch: None)


def test_the_root_is_the_argument_then_the_variable_then_the_home_folder(monkeypatch):
    monkeypatch.setenv("KD_CACHE", "/x")
    assert cache_root("/y") == Path("/y")
    assert cache_root() == Path("/x")
    monkeypatch.delenv("KD_CACHE")
    assert cache_root() == Path.home() / ".cache" / "kd_lightning"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no folder in which nobody can make a file")
@pytest.mark.timeout(60)
def test_where_no_lock_can_be_made_is_an_error_at_once():
    with pytest.raises(DataError, match=r"Cannot write the cache folder /proc/self .*set KD_CACHE"):
        build_once(Path("/proc/self/kd"), lambda folder: None)
    with pytest.raises(DataError, match="Cannot write the cache folder /proc/self"):
        kd.TeacherCache.build(torch.nn.Linear(2, 2), [], Path("/proc/self/kd"), ["logits"])
