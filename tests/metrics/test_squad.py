from __future__ import annotations

import pytest

from kd_lightning.metrics.squad import squad_scores


@pytest.mark.parametrize(
    ("prediction", "references", "exact", "f1"),
    [
        ("The Denver Broncos!", ["denver broncos"], 100, 100),  # case, article and punctuation do not count
        ("Denver", ["Denver Broncos"], 0, 100 * 2 * 1 * 0.5 / 1.5),
        ("big big dog", ["big dog dog"], 0, 100 * 2 / 3),  # bags of words: two are shared, of three and three
        ("in October", ["1973", "October", "October 1973"], 0, 100 * 2 * 0.5 * 1 / 1.5),  # the best reference
        ("a b  c", ["b c"], 100, 100),
        ("", ["dog"], 0, 0),
        ("cat", ["dog"], 0, 0),
    ],
)
def test_scores_equal_values_computed_by_hand(prediction, references, exact, f1):
    found = squad_scores({"q": prediction}, {"q": references})
    assert found == {"exact_match": exact, "f1": pytest.approx(f1)}


def test_only_questions_with_references_count():
    found = squad_scores({"a": "dog", "b": "cat", "c": "cow"}, {"a": ["dog"], "b": ["dog"]})
    assert found == {"exact_match": 50.0, "f1": 50.0}
