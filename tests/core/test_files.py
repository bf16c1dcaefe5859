from __future__ import annotations

import os
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from kd_lightning.core.files import write_figure, write_json, write_text


def test_files_are_replaced_and_no_other_file_is_left(tmp_path):
    file = tmp_path / "deep" / "folder" / "a.txt"
    for text in ("one", "zwölf\n"):
        write_text(file, text)
        assert file.read_text(encoding="utf-8") == text
    assert os.listdir(file.parent) == ["a.txt"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    write_json(file, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(file, {"a": float("nan")})
    monkeypatch.setattr(Path, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_text(file, "new")
    assert file.read_text() == '{\n  "a": 1\n}\n'


def test_figures_are_written_as_png(tmp_path):
    figure = Figure(figsize=(2, 1), dpi=50)
    figure.subplots().plot([0, 1])
    write_figure(tmp_path / "a.png", figure)
    assert imread(tmp_path / "a.png").shape == (50, 100, 4)
