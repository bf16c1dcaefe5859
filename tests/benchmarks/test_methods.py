"""A sweep's methods side by side: against figures computed by hand from a made file."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import methods

SWEEP = """\
job,method,seed,status,best,student/accuracy,seconds/student,seconds,error
0,alone,0,ok,,0.80,100.0,400.0,
1,alone,1,ok,,0.82,110.0,400.0,
2,alone,2,ok,,0.81,120.0,400.0,
3,st,0,ok,,0.82,200.0,400.0,
4,st,1,ok,,0.83,200.0,400.0,
5,st,2,ok,,0.84,200.0,400.0,
6,at,2,ok,yes,0.88,,300.0,
7,at,0,ok,,0.84,,300.0,
8,at,1,failed,,,,,RuntimeError: out of memory.
9,sp,0,missing,,,,,
10,sp,1,ok,,0.83,250.0,250.0,
11,nst,0,ok,,0.84,,,
12,nst,1,ok,,0.80,,,
13,nst,2,ok,,0.87,,,
14,vid,0,failed,,,,,broken
"""
TIMES = "method,ours ms,by hand ms,peak MiB above plain,error\nst,123.4,120,7.5,\nat,,,,MatchError: no\n"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    file = tmp_path / "sweep.csv"
    file.write_text(SWEEP)
    return file


def row_of(name: str, file: Path, **options: object) -> dict[str, object]:
    rows = methods.method_rows(methods.read_sweep(file), **options)  # type: ignore[arg-type]
    return next(row for row in rows if row["method"] == name)


def test_the_best_mean_comes_first_and_what_has_no_result_last(sweep):
    assert methods.ranked(methods.read_sweep(sweep)) == ["at", "nst", "st", "sp", "alone", "vid"]


def test_gains_are_those_of_equal_seeds(sweep):
    """`st` − `alone`: 2, 1 and 3 points, mean 2, deviation 1, standard error 0.58. `nst` − `st`: 2, −3, 3."""
    st = row_of("st", sweep)
    assert (st["accuracy"], st["gain over alone"]) == ("83.00 ± 1.00", "+2.00 ± 1.00")
    assert (st["gain over st"], st["told apart from st"]) == (None, None)
    alone = row_of("alone", sweep)
    assert (alone["gain over st"], alone["told apart from st"]) == ("-2.00 ± 1.00", True)
    nst = row_of("nst", sweep)
    assert (nst["gain over st"], nst["told apart from st"]) == ("+0.67 ± 3.21", False)


def test_a_method_with_a_seed_less_is_compared_on_those_it_has(sweep):
    """`at` has seeds 0 and 2: 84 − 82 = 2 and 88 − 84 = 4; 84 − 80 = 4 and 88 − 81 = 7."""
    at = row_of("at", sweep)
    assert (at["runs"], at["accuracy"]) == ("2 of 3", "86.00 ± 2.83")
    assert (at["gain over st"], at["told apart from st"]) == ("+3.00 ± 1.41", True)
    assert at["gain over alone"] == "+5.50 ± 2.12"


def test_a_sweep_over_something_else_has_its_own_column_and_base(tmp_path, capsys):
    """`tinybert` trains in two stages, of 20 and 10 seconds, after a teacher's 99."""
    file = tmp_path / "sweep.csv"
    header = "way,seed,status,student/accuracy,seconds/teacher,seconds/features,seconds/student,seconds"
    file.write_text(f"{header}\nplain,0,ok,0.5,99,,40,139\ntinybert,0,ok,0.6,99,20,10,129\n")
    methods.main([str(file), "--column", "way", "--base", "plain"])
    first, _, best, *_ = capsys.readouterr().out.splitlines()
    assert first == "| way | runs | accuracy | gain over alone | gain over plain | told apart from plain | seconds |"
    assert best == "| tinybert | 1 | 60.00 | – | +10.00 | – | 30 |"


def test_one_seed_tells_nothing_apart(sweep):
    sp = row_of("sp", sweep)
    assert (sp["accuracy"], sp["gain over st"], sp["told apart from st"]) == ("83.00", "+0.00", None)


def test_seconds_are_the_students_or_those_of_all_stages(sweep):
    assert [row_of(name, sweep)["seconds"] for name in ("alone", "at", "vid")] == [110, 300, None]


def test_no_run_is_dropped_silently(sweep, capsys):
    methods.main([str(sweep)])
    printed = capsys.readouterr().out
    assert "| vid | 0 of 3 | – |" in printed
    for line in (
        "- at, seed 1: failed: RuntimeError: out of memory.",
        "- sp, seed 0: missing.",
        "- sp, seed 2: not run.",
        "- vid, seed 0: failed: broken.",
    ):
        assert f"\n{line}\n" in printed


def test_a_run_that_was_repeated_after_it_failed_counts_and_is_told(tmp_path):
    file = tmp_path / "sweep.csv"
    file.write_text("method,seed,status,student/accuracy,error\nst,0,failed,,killed\nst,0,ok,0.5,\nalone,0,ok,0.4,\n")
    assert row_of("st", file)["runs"] == "1"
    assert methods.notes(methods.read_sweep(file)) == ["st, seed 0: failed: killed; another run has a result."]


def test_a_base_without_a_result_is_told(tmp_path):
    file = tmp_path / "sweep.csv"
    file.write_text("method,seed,status,student/accuracy\nat,0,ok,0.5\nalone,0,ok,nan\n")
    assert row_of("at", file)["gain over st"] is None
    assert methods.notes(methods.read_sweep(file)) == [
        "alone, seed 0: no student/accuracy.",
        "There is no result of alone, and so no gain over it.",
        "There is no result of st, and so no gain over it.",
    ]


def test_published_figures_and_times_stand_beside(sweep, tmp_path, capsys):
    """Those of `cifar10_zoo_r20`: `st` 92.82, `nst` 92.83; none for `dkd` or here `vid2`."""
    times = tmp_path / "zoo.csv"
    times.write_text(TIMES)
    methods.main([str(sweep), "--published", "cifar10_zoo_r20", "--times", str(times)])
    printed = capsys.readouterr().out
    assert "| 200 | 123 | 7.5 | 92.82 |" in printed
    assert "| 300 | – | – | 93.21 |" in printed
    assert methods.method_rows(methods.read_sweep(sweep), {"st": 1.0})[0]["published"] == ""


@pytest.mark.parametrize(
    ("header", "missing"),
    [("job,seed,status,student/accuracy", "'method'"), ("job,status,student/accuracy", "'method' and 'seed'")],
)
def test_a_file_without_what_is_needed_is_refused_in_one_sentence(header, missing, tmp_path):
    file = tmp_path / "sweep.csv"
    file.write_text(f"{header}\n")
    with pytest.raises(SystemExit, match=f"no column {missing}: it must be the sweep.csv of a sweep over method="):
        methods.main([str(file)])


def test_two_results_of_one_seed_are_refused(tmp_path):
    file = tmp_path / "sweep.csv"
    file.write_text("method,seed,status,student/accuracy\nst,0,ok,0.5\nst,0,ok,0.6\n")
    with pytest.raises(SystemExit, match="two results of method st with seed 0"):
        methods.main([str(file)])


def test_other_mistakes_are_told_in_one_sentence(sweep, tmp_path):
    with pytest.raises(SystemExit, match="cannot be read: No such file"):
        methods.main([str(tmp_path / "none.csv")])
    with pytest.raises(SystemExit, match=r"quickstart has no published\.accuracy"):
        methods.main([str(sweep), "--published", "quickstart"])


def test_the_picture_has_a_bar_of_two_standard_errors_for_each_gain(sweep, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(methods, "write_figure", lambda file, figure: drawn.append(figure))
    methods.main([str(sweep), "--published", "cifar10_zoo_r20", "--picture", str(tmp_path / "gains.png")])
    (axes,) = drawn[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["vid", "alone", "sp", "nst", "at"]
    bars = {round(bar.lines[0].get_xdata()[0], 6): bar for bar in axes.containers}
    assert sorted(bars) == pytest.approx([-2, 0, 2 / 3, 3])
    start, end = bars[3.0].lines[2][0].get_segments()[0][:, 0]  # ± 2 · 1.414 / √2
    assert (start, end) == pytest.approx((1, 5))
    assert axes.get_legend_handles_labels()[1] == ["published", "ours, ± 2 standard errors"]
    assert "no result (0 of 3)" in [text.get_text() for text in axes.texts]


def test_the_picture_is_written(sweep, tmp_path, capsys):
    methods.main([str(sweep), "--picture", str(tmp_path / "gains.png")])
    assert (tmp_path / "gains.png").read_bytes().startswith(b"\x89PNG")
    assert "png" not in capsys.readouterr().out
