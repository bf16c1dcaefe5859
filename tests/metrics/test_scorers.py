from __future__ import annotations

import itertools

import pytest

from kd_lightning.metrics.scorers import cmrc_scores, longest_run, segments, squad_scores


def cmrc(prediction: str, *references: str) -> tuple[float, float]:
    found = cmrc_scores({"q": prediction}, {"q": references})
    return found["exact_match"], pytest.approx(found["f1"])  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("prediction", "references", "exact", "f1"),
    [
        ("1963年", ["1963年"], 100, 100),
        ("《战国无双3》", ["战国无双3。"], 100, 100),  # punctuation is dropped
        ("在1963年", ["1963年"], 0, 100 * 2 * (2 / 3) * 1 / (2 / 3 + 1)),  # shared: 1963, 年; precision 2/3, recall 1
        ("光荣和ω-force", ["光荣"], 0, 100 * 2 * (2 / 4) * 1 / (2 / 4 + 1)),  # 光, 荣, 和, ωforce
        (
            "北京市人",
            ["北人"],
            0,
            100 * 2 * (1 / 4) * (1 / 2) / (1 / 4 + 1 / 2),
        ),  # a run of one, not a subsequence of two
        ("上海", ["北京"], 0, 0),
        ("", ["北京"], 0, 0),
        ("北京", ["上海", "北京市", "南京"], 0, 80),  # the best reference: precision 1, recall 2/3
        ("北京", ["北京市", "北京"], 100, 100),
        ("Come Back To Me", ["come back to me"], 100, 100),
        ("10%", ["10"], 0, 100 * 2 * (1 / 2) * 1 / (1 / 2 + 1)),  # a percent sign is a word
        ("1,000名", ["1000名"], 0, 50),  # 1,000 is one word and another one
        ("，。", ["、"], 100, 0),  # nothing is left of either: equal, but no run is shared
    ],
)
def test_cmrc_scores_equal_values_computed_by_hand(prediction, references, exact, f1):
    assert cmrc(prediction, *references) == (exact, pytest.approx(f1))


def test_cmrc_scores_are_means_over_questions_with_references():
    predictions, references = {"a": "北京", "b": "上海", "c": "x"}, {"a": ["北京"], "b": ["上海市"]}
    assert cmrc_scores(predictions, references) == {"exact_match": 50.0, "f1": pytest.approx((100 + 80) / 2)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("i don't say it's", ["i", "do", "n't", "say", "it", "'s"]),
        ("csc corp. (u.s.)", ["csc", "corp.", "(", "u.s", ".", ")"]),
        ("nt$25,000, 0.80%", ["nt", "$", "25,000", ",", "0.80", "%"]),
        ("student's s.k.b.", ["student", "'s", "s.k.b", "."]),
        ("9–18 a…b", ["9", "–", "18", "a…b"]),
        ("", []),
    ],
)
def test_words_of_other_scripts_are_those_of_the_penn_treebank(text, words):
    assert list(segments(text)) == words  # as NLTK 3.10's NLTKWordTokenizer makes them


def test_the_longest_run_equals_brute_force():
    for one, other in itertools.product(
        ("".join(t) for n in range(5) for t in itertools.product("ab", repeat=n)), repeat=2
    ):
        runs = (one[i:j] for i in range(len(one)) for j in range(i, len(one) + 1))
        assert longest_run(one, other) == max((len(run) for run in runs if run in other), default=0)


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
def test_squad_scores_equal_values_computed_by_hand(prediction, references, exact, f1):
    found = squad_scores({"q": prediction}, {"q": references})
    assert found == {"exact_match": exact, "f1": pytest.approx(f1)}


def test_squad_scores_are_means_over_questions_with_references():
    found = squad_scores({"a": "dog", "b": "cat", "c": "cow"}, {"a": ["dog"], "b": ["dog"]})
    assert found == {"exact_match": 50.0, "f1": 50.0}
