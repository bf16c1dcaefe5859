"""Each augmentation against its definition, and against TextBrewer's own code fed with the same draws."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textbrewer import data_utils as theirs

from kd_lightning.core.errors import DataError
from kd_lightning.data import Augmentation, Delete, LongReorder, Mask, NGramSample, ShortReorder

EVERY = (
    Mask(0.3, token=103),
    Delete(0.5),
    NGramSample(),
    ShortReorder(p=(0.4, 0.2, 0.2, 0.1, 0.1)),
    LongReorder(0.3, 6),
    LongReorder(0.5, 0.5),
)
texts = st.integers(1, 40).map(lambda n: np.arange(1000, 1000 + n, dtype=np.int32))
seeds = st.integers(0, 2**32 - 1)
every = pytest.mark.parametrize("augmentation", EVERY, ids=repr)


def run(augmentation: Augmentation, tokens: np.ndarray, seed: int) -> list[int]:
    return augmentation(tokens, np.random.default_rng(seed)).tolist()


# -- what all have in common ---------------------------------------------------------------------------------------


@every
@settings(deadline=None, max_examples=60)
@given(texts, seeds)
def test_nothing_is_lost_of_the_input_and_something_is_left(augmentation, tokens, seed):
    before = tokens.copy()
    first = run(augmentation, tokens, seed)
    assert np.array_equal(tokens, before)
    assert 0 < len(first) <= len(tokens)
    assert set(first) <= {*tokens.tolist(), 103}
    assert run(augmentation, tokens, seed) == first


@every
def test_a_text_without_tokens_stays_so(augmentation):
    assert run(augmentation, np.array([], dtype=np.int32), 0) == []


@every
def test_another_seed_does_something_else(augmentation):
    assert len({tuple(run(augmentation, np.arange(30), seed)) for seed in range(40)}) > 2


@every
def test_augmentations_travel_to_workers_and_are_what_they_say(augmentation):
    for other in (pickle.loads(pickle.dumps(augmentation)), eval(repr(augmentation))):
        assert run(other, np.arange(30), 0) == run(augmentation, np.arange(30), 0)
        assert vars(other) == vars(augmentation)


def test_a_share_of_texts_is_changed_and_the_others_are_as_they_were():
    random, tokens = np.random.default_rng(0), np.arange(10)
    changed = sum(len(NGramSample(lengths=[2], share=0.25)(tokens, random)) == 2 for _ in range(4000))
    assert abs(changed / 4000 - 0.25) < 0.03
    assert all(len(NGramSample(share=0.0)(tokens, random)) == 10 for _ in range(50))


def test_one_of_your_own_that_leaves_nothing_is_named():
    class Nothing(Augmentation):
        def change(self, tokens: np.ndarray, random: np.random.Generator) -> np.ndarray:
            return tokens[:0]

    with pytest.raises(DataError, match=r"Nothing\(share=1\.0\) left nothing of a text of 3 tokens"):
        run(Nothing(), np.arange(3), 0)


# -- each against its definition -----------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.0, 0.1, 0.7, 1.0])
def test_the_share_of_masked_and_of_deleted_tokens_is_p(p):
    tokens = np.arange(20000)
    masked = np.array(run(Mask(p, token=-5), tokens, 1))
    assert abs((masked == -5).mean() - p) < 0.015
    assert (masked[masked != -5] == tokens[masked != -5]).all()
    kept = run(Delete(p), tokens, 1)
    assert abs(1 - len(kept) / 20000 - p) < 0.015
    assert kept == sorted(kept)


def test_the_token_that_survives_where_all_would_go_is_any():
    survivors = Counter(run(Delete(1.0), np.arange(4), seed)[0] for seed in range(800))
    assert set(survivors) == {0, 1, 2, 3}
    assert min(survivors.values()) > 130


@settings(deadline=None, max_examples=100)
@given(texts, seeds)
def test_an_n_gram_is_a_contiguous_span(tokens, seed):
    span = run(NGramSample(lengths=[1, 3, 9]), tokens, seed)
    assert len(span) in {min(length, len(tokens)) for length in (1, 3, 9)}
    assert span == list(range(span[0], span[0] + len(span)))


def test_lengths_and_places_of_n_grams_have_their_probabilities():
    ngram, tokens = NGramSample(lengths=[2, 5], p=[0.8, 0.2]), np.arange(6)
    spans = [run(ngram, tokens, seed) for seed in range(4000)]
    assert abs(sum(len(span) == 2 for span in spans) / 4000 - 0.8) < 0.03
    starts = Counter(span[0] for span in spans if len(span) == 2)
    assert set(starts) == {0, 1, 2, 3, 4}
    assert max(starts.values()) / min(starts.values()) < 1.3


@pytest.mark.parametrize("augmentation", EVERY[3:], ids=repr)
@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), seeds)
def test_reordering_keeps_every_token(augmentation, tokens, seed):
    assert Counter(run(augmentation, np.array(tokens), seed)) == Counter(tokens)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [(0, "abcdefgh"), (1, "badcfehg"), (2, "cbafedgh"), (3, "cabfdegh"), (4, "bcaefdgh")],
)
def test_each_short_pattern_is_what_its_name_says(pattern, expected):
    p = [float(i == pattern) for i in range(5)]
    assert "".join(ShortReorder(p)(np.array(list("abcdefgh")), np.random.default_rng(0))) == expected


def swap_halves(tokens: list[int], span: int) -> list[int]:
    """Swap the halves of one span after the other, what is left at the end staying."""
    out: list[int] = []
    while len(tokens) >= span > 0:
        out += tokens[span // 2 : span] + tokens[: span // 2]
        tokens = tokens[span:]
    return out + tokens


@pytest.mark.parametrize(
    ("length", "size", "span"),
    [(4, 11, 4), (5, 11, 6), (20, 11, 20), (0.4, 11, 4), (0.5, 11, 6), (1.0, 11, 10), (1, 8, 8), (0.01, 11, 2),
     (2, 1, 2), (0.5, 1, 0), (2.9, 5, 2)],
)  # fmt: skip
def test_a_long_span_has_its_length_and_its_halves_are_swapped(length, size, span):
    assert run(LongReorder(1.0, length), np.arange(size), 0) == swap_halves(list(range(size)), span)


@pytest.mark.parametrize("p", [0.0, 0.2, 1.0])
def test_a_long_swap_begins_with_probability_p(p):
    tokens = np.arange(2)  # one place for one swap
    assert abs(sum(run(LongReorder(p, 2), tokens, seed) == [1, 0] for seed in range(3000)) / 3000 - p) < 0.03


# -- against TextBrewer --------------------------------------------------------------------------------------------


class Draws:
    """Stands for `numpy.random` in TextBrewer's module: its functions as NumPy defines them, on a given generator."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def rand(self) -> float:
        return self.random.random()

    def binomial(self, n: int, p: float, size: int) -> np.ndarray:
        return (self.random.random(size) >= 1 - p).astype(int)

    def choice(self, values: list[int], p: list[float]) -> int:
        total = np.cumsum(p)
        return values[np.searchsorted(total / total[-1], self.random.random(), side="right")]

    def randint(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high))


SHORT = [0.5, 0.2, 0.1, 0.1, 0.1]
PAIRS: list[tuple[Augmentation, Callable[[list[int]], list[int]]]] = [
    (Mask(0.3, token=103), lambda tokens: theirs.masking(tokens, 0.3, 103)),
    (Delete(0.3), lambda tokens: theirs.deleting(tokens, 0.3)),
    (NGramSample(), theirs.n_gram_sampling),
    (NGramSample([2, 7], [0.9, 0.1]), lambda tokens: theirs.n_gram_sampling(tokens, [0.9, 0.1], [2, 7])),
    (ShortReorder(), theirs.short_disorder),
    (ShortReorder(SHORT), lambda tokens: theirs.short_disorder(tokens, SHORT)),
    (LongReorder(), theirs.long_disorder),
    (LongReorder(0.4, 5), lambda tokens: theirs.long_disorder(tokens, 0.4, 5)),
    (LongReorder(0.4, 0.3), lambda tokens: theirs.long_disorder(tokens, 0.4, 0.3)),
]


@pytest.mark.parametrize(("ours", "function"), PAIRS, ids=[repr(ours) for ours, _ in PAIRS])
def test_the_same_draws_make_what_textbrewer_makes(monkeypatch, ours, function):
    for seed in range(150):
        tokens = list(range(10, 10 + 12 + seed % 40))
        monkeypatch.setattr(theirs, "np", SimpleNamespace(random=Draws(seed)))
        expected = function(tokens)
        found = ours.change(np.array(tokens), np.random.default_rng(seed)).tolist()
        if isinstance(ours, ShortReorder) and found[-2:] == tokens[-2:]:  # what it makes of a pattern that does not fit
            assert expected in (found, [*found[:-2], *found[:-3:-1]])
        else:
            assert found == expected


def test_what_the_docstrings_say_of_textbrewer_is_so(monkeypatch):
    array = np.arange(8)
    theirs.masking(array, 1.0, -1)
    assert (array == -1).all()
    assert theirs.deleting([5, 6], p=1.0) == []
    with pytest.raises(ValueError, match="high <= 0"):
        theirs.n_gram_sampling([5], p_ng=[0, 1], l_ng=[1, 2])
    assert theirs.short_disorder([5, 6], p=[0, 0, 0, 1, 0]) == [6, 5]
    assert theirs.long_disorder(np.arange(4), p=1.0, length=4).tolist() == [2, 3, 2, 3]
    assert theirs.long_disorder([5, 6, 7], p=1.0, length=1.0) == [5, 6, 7]

    def endless() -> float:
        draws.append(0.0)
        if len(draws) > 100:
            raise TimeoutError
        return 0.0

    draws: list[float] = []
    monkeypatch.setattr(theirs, "np", SimpleNamespace(random=SimpleNamespace(rand=endless)))
    with pytest.raises(TimeoutError):
        theirs.long_disorder([5], p=1.0, length=0.5)


# -- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Mask(1.5), "`p` to be from 0 to 1 but got 1.5"),
        (lambda: Delete("much"), "`p` to be from 0 to 1 but got 'much'"),
        (lambda: Delete(share=-1), "`share` to be from 0 to 1 but got -1"),
        (lambda: NGramSample(lengths=[0, 1]), r"numbers of tokens, from 1, but got \[0, 1\]"),
        (lambda: NGramSample(lengths=[]), "numbers of tokens"),
        (lambda: NGramSample(p=[0.5, 0.5]), "`p` to be 5 probabilities that sum to 1"),
        (lambda: ShortReorder(p=[0.9, 0.2, 0, 0, 0]), "`p` to be 5 probabilities that sum to 1"),
        (lambda: ShortReorder(p=[1.1, -0.1, 0, 0, 0]), "`p` to be 5 probabilities"),
        (lambda: LongReorder(length=0), "`length` to be tokens, or a share up to 1, but got 0"),
        (lambda: LongReorder(p=2), "`p` to be from 0 to 1 but got 2"),
        (lambda: Mask()(np.arange(3), np.random.default_rng(0)), r"call bind\(tokenizer\) first"),
    ],
)
def test_options_that_make_no_sense_are_refused(build: Callable[[], Any], sentence: str):
    with pytest.raises(DataError, match=sentence):
        build()
