from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from kd_lightning.core.files import write_figure, write_json, write_text
from kd_lightning.core.locks import build_once


def test_files_are_replaced_and_no_other_file_is_left(tmp_path):
    file = tmp_path / "deep" / "folder" / "a.txt"
    for text in ("one", "zwölf\n"):
        write_text(file, text)
        assert file.read_text(encoding="utf-8") == text
    assert os.listdir(file.parent) == ["a.txt"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    write_json(file, {"a": 1})
    monkeypatch.setattr(Path, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_text(file, "new")
    assert file.read_text() == '{\n  "a": 1\n}\n'


def test_numbers_that_json_has_not_are_null(tmp_path):
    write_json(tmp_path / "a.json", {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": -float("inf")}})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [None, 1.5], "c": {"d": None}}


def test_a_file_is_synced_before_it_is_renamed_and_its_folder_after(tmp_path, monkeypatch):
    calls = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append(os.path.realpath(f"/proc/self/fd/{fd}")) or sync(fd))
    monkeypatch.setattr(Path, "replace", lambda a, b: calls.append("rename") or replace(a, b))
    write_text(tmp_path / "a.txt", "b")
    assert [Path(call).name for call in calls] == [f".a.txt.{os.getpid()}.tmp", "rename", tmp_path.name]


def test_a_folder_is_synced_before_it_appears(tmp_path, monkeypatch):
    calls = []
    sync, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append(os.path.realpath(f"/proc/self/fd/{fd}")) or sync(fd))
    monkeypatch.setattr(Path, "rename", lambda a, b: calls.append("rename") or rename(a, b))
    build_once(tmp_path / "cache", lambda folder: (folder / "x").write_text("1"))
    names = [Path(call).name for call in calls]
    appeared = names.index("rename")
    assert {"checksums.json", "x"} <= set(names[:appeared])
    assert re.fullmatch(r"\.cache\..*\.tmp", names[appeared - 1])  # the folder with its files
    assert names[appeared:] == ["rename", tmp_path.name]


def test_figures_are_written_as_png(tmp_path):
    figure = Figure(figsize=(2, 1), dpi=50)
    figure.subplots().plot([0, 1])
    write_figure(tmp_path / "a.png", figure)
    assert imread(tmp_path / "a.png").shape == (50, 100, 4)
