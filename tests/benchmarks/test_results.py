"""Tables in RESULTS.md and figures in the docs, between markers, are what their commands print now."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import drawn

REPOSITORY = Path(__file__).resolve().parents[2]
SWEEP = "method,seed,status,student/accuracy\nst,0,ok,0.5\nalone,0,ok,0.25\n"
COMMAND = "python -m benchmarks.methods made.csv"
TABLE = """\
| method | runs | accuracy | gain over alone | gain over st | told apart from st | seconds |
| --- | --- | --- | --- | --- | --- | --- |
| st | 1 | 50.00 | +25.00 | – | – | – |
| alone | 1 | 25.00 | – | -25.00 | – | – |
"""


def marked(content: str, command: str = COMMAND) -> str:
    return f"# Results\n\n<!-- drawn by: {command} -->\n{content}<!-- end -->\n\nText.\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made.csv").write_text(SWEEP)
    return tmp_path


def test_no_table_of_results_or_docs_is_stale(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    texts = {str(file): file.read_text(encoding="utf-8") for file in drawn.marked_files()}
    stale = {file: found for file, text in texts.items() if (found := drawn.stale(text))}
    assert not stale, "write them anew by `python -m benchmarks.drawn`"
    assert len([file for file, text in texts.items() if "drawn by" in text]) >= 4


def test_a_table_that_is_what_is_printed_passes(here):
    assert drawn.stale(marked(TABLE)) == []
    assert drawn.redraw(marked(TABLE)) == marked(TABLE)


@pytest.mark.parametrize("content", ["", TABLE.replace("50.00", "51.00"), TABLE + "| more |\n"])
def test_another_table_is_stale_and_drawn_anew(content, here):
    assert drawn.stale(marked(content)) == [COMMAND]
    (here / "made.md").write_text(marked(content) + marked(TABLE), encoding="utf-8")
    drawn.main(["made.md"])
    assert (here / "made.md").read_text(encoding="utf-8") == marked(TABLE) * 2


def test_other_data_make_a_table_stale(here):
    (here / "made.csv").write_text(SWEEP.replace("0.25", "0.26"))
    assert drawn.stale(marked(TABLE)) == [COMMAND]


@pytest.mark.parametrize("text", [marked(TABLE).replace("<!-- end -->", ""), marked(marked(TABLE))])
def test_a_marker_without_its_end_is_an_error(text, here):
    with pytest.raises(ValueError, match=r"no `<!-- end -->` of its own"):
        drawn.stale(text)


@pytest.mark.parametrize("command", ["rm -r benchmarks", "python -m this", f"{COMMAND} --picture a.png"])
def test_another_command_is_an_error(command, here):
    with pytest.raises(ValueError, match="without a picture"):
        drawn.stale(marked(TABLE, command))


def test_text_without_markers_has_nothing_stale():
    assert drawn.stale("# Results\n\n| a |\n| --- |\n| 1 |\n") == []
