from __future__ import annotations

from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_lightning.core.errors import MatchError
from kd_lightning.objective.layer_maps import layer_map

TABLE = {
    ("uniform", 3, 12): [4, 8, 12],
    ("uniform", 4, 12): [3, 6, 9, 12],
    ("uniform", 6, 12): [2, 4, 6, 8, 10, 12],
    ("uniform", 12, 12): list(range(1, 13)),
    ("uniform", 4, 6): [2, 3, 5, 6],  # 1.5, 3, 4.5, 6: halves go up
    ("uniform", 3, 6): [2, 4, 6],
    ("uniform", 2, 3): [2, 3],
    ("uniform", 1, 7): [7],
    ("uniform", 6, 4): [1, 1, 2, 3, 3, 4],  # .67, 1.33, 2, 2.67, 3.33, 4
    ("skip", 6, 12): [2, 4, 6, 8, 10, 12],
    ("skip", 4, 6): [1, 2, 3, 4],
    ("skip", 5, 12): [2, 4, 6, 8, 10],
    ("last", 6, 12): [7, 8, 9, 10, 11, 12],
    ("last", 4, 6): [3, 4, 5, 6],
    ("top", 4, 12): [12],
}

DEPTH = st.integers(1, 48)


@pytest.mark.parametrize(("case", "teachers"), TABLE.items(), ids=str)
def test_rules_agree_with_tables_made_by_hand(case, teachers):
    rule, student, _ = case
    students = [student] if rule == "top" else range(1, student + 1)
    assert layer_map(*case) == list(zip(students, teachers, strict=True))


@given(DEPTH, DEPTH)
def test_uniform_is_rounding_half_up(student, teacher):
    expected = [(s, floor(s * teacher / student + 0.5)) for s in range(1, student + 1)]
    assert layer_map("uniform", student, teacher) == expected


@given(st.sampled_from(["uniform", "skip", "last"]), DEPTH, DEPTH)
def test_every_map_is_monotone_and_in_range(rule, one, other):
    student, teacher = sorted((one, other))
    mapped = [t for _, t in layer_map(rule, student, teacher)]
    assert len(mapped) == student
    assert mapped == sorted(set(mapped))
    assert 1 <= mapped[0] <= mapped[-1] <= teacher


@given(DEPTH, DEPTH)
def test_uniform_ends_at_the_top_also_for_deeper_students(student, teacher):
    mapped = [t for _, t in layer_map("uniform", student, teacher)]
    assert mapped == sorted(mapped)
    assert (mapped[0] >= 0, mapped[-1]) == (True, teacher)


@pytest.mark.parametrize("rule", ["skip", "last"])
def test_a_student_deeper_than_its_teacher_is_sent_to_uniform(rule):
    with pytest.raises(MatchError, match=r"6 layers and the teacher 4. Use 'uniform'"):
        layer_map(rule, 6, 4)


def test_explicit_pairs_are_kept_in_their_order():
    assert layer_map([[2, 9], [0, 0], (1, 3)], 2, 12) == [(2, 9), (0, 0), (1, 3)]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("unifrom", "Closest: uniform"),
        ("emdd", "Closest: emd"),
        ("emd", "'emd' is learned while a match scheme trains"),
        ([(1, 13)], "teacher layer 13.*layers 0 to 12"),
        ([(5, 1)], "student layer 5.*layers 0 to 4"),
        ([(-1, 1)], "student layer -1"),
        ([(1, 2, 3)], "pairs of numbers"),
        ([1, 2], "pairs of numbers"),
        (["12"], "pairs of numbers"),
        ([(1, "2")], "pairs of numbers"),
    ],
    ids=str,
)
def test_a_wrong_map_is_one_sentence(rule, words):
    with pytest.raises(MatchError, match=words):
        layer_map(rule, 4, 12)
