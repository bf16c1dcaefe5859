from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_lightning.data.text.tagged_rows import OVERLAP, owners, spans


@st.composite
def sentences(draw: st.DrawFn) -> tuple[list[int], int]:
    """Return how many pieces each word has, some none, and a room that holds the longest."""
    room = draw(st.integers(1, 12))
    return draw(st.lists(st.integers(0, room), min_size=1, max_size=60)), room


@given(sentences())
@settings(max_examples=300, deadline=None)
def test_rows_hold_all_words_and_each_word_belongs_to_the_row_where_it_is_farthest_from_an_end(case):
    pieces, room = case
    rows, words = spans(pieces, room), range(len(pieces))
    assert all(sum(pieces[first:last]) <= room for first, last in rows)
    assert {word for first, last in rows for word in range(first, last)} == set(words)
    assert all(one[0] < other[0] and one[1] < other[1] for one, other in pairwise(rows))
    owner = owners(rows, len(pieces)).tolist()
    assert len(owner) == len(words)
    for word in words:
        context = [min(word - first, last - 1 - word) if first <= word < last else -1 for first, last in rows]
        assert context[owner[word]] == max(context) >= 0


@given(sentences())
@settings(max_examples=300, deadline=None)
def test_rows_are_as_long_as_they_can_be_and_repeat_little(case):
    pieces, room = case
    rows = spans(pieces, room)
    for (first, last), (following, _) in pairwise(rows[:-1]):
        assert sum(pieces[first : last + 1]) > room  # no further word fits
        assert sum(pieces[following:last]) <= room // OVERLAP
    if len(rows) > 1:
        assert sum(pieces[rows[-1][0] - 1 :]) > room  # the last one begins as early as it can


@pytest.mark.parametrize(
    ("pieces", "room", "expected"),
    [
        ([1, 2, 3], 6, [(0, 3)]),
        ([1] * 8, 4, [(0, 4), (3, 7), (4, 8)]),
        ([4, 4, 4], 4, [(0, 1), (1, 2), (2, 3)]),
        ([0, 0, 3, 0], 3, [(0, 4)]),
        ([0, 0], 1, [(0, 2)]),
        ([1, 1, 1, 4, 1], 4, [(0, 3), (3, 4), (4, 5)]),
    ],
)
def test_hand_made_cases(pieces, room, expected):
    assert spans(pieces, room) == expected
