from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kd_lightning.core.errors import DataError
from kd_lightning.data import build_tokenizer
from kd_lightning.data.text.masking import MaskedRows, Masking
from kd_lightning.data.text.tokenizing import encode

TEXT = "the unbelievable film was not unbelievably good but the plot was believable and the actors were goodish"


@pytest.fixture(scope="module")
def pieces() -> Any:
    """A tokenizer that knows few words, so that most are cut into pieces."""
    return build_tokenizer([TEXT], vocab_size=60)


@pytest.fixture(scope="module")
def ids(pieces: Any) -> np.ndarray:
    return np.array(pieces(" ".join([TEXT] * 40))["input_ids"])


def test_labels_are_what_was_hidden_and_nothing_else_changes(pieces, ids):
    hidden, labels = Masking(pieces)(ids, np.random.default_rng(0))
    chosen = labels != -100
    assert (labels[chosen] == ids[chosen]).all()
    assert (hidden[~chosen] == ids[~chosen]).all()
    assert chosen.sum() == round(0.15 * (len(ids) - 2))


def test_eight_in_ten_become_the_mask_one_another_token_and_one_stays(pieces, ids):
    counts = np.zeros(3)
    for seed in range(30):
        hidden, labels = Masking(pieces)(ids, np.random.default_rng(seed))
        chosen = labels != -100
        masked, kept = hidden[chosen] == pieces.mask_token_id, hidden[chosen] == ids[chosen]
        counts += masked.sum(), (~masked & ~kept).sum(), kept.sum()
        assert not np.isin(hidden[chosen & (hidden != pieces.mask_token_id)], [0, 2, 3, 4]).any()
    shares, n = counts / counts.sum(), counts.sum()
    words = len(pieces) - len(pieces.all_special_ids)
    expected = np.array([0.8, 0.1 * (1 - 1 / words), 0.1 + 0.1 / words])  # a random token is the same now and then
    assert (np.abs(shares - expected) < 4 * np.sqrt(expected * (1 - expected) / n)).all()


def test_every_token_is_chosen_equally_often_and_special_ones_never(pieces):
    row = np.array(pieces("the film was good", "the plot was not")["input_ids"])
    times = sum(Masking(pieces)(row, np.random.default_rng(seed))[1] != -100 for seed in range(4000))
    special = np.isin(row, [pieces.cls_token_id, pieces.sep_token_id])
    assert not times[special].any()
    n = (~special).sum()
    assert np.abs(times[~special] / 4000 - round(0.15 * n) / n).max() < 0.035


def test_of_a_short_row_one_token_is_hidden(pieces):
    row = np.array(pieces("the film")["input_ids"])
    assert 3 < len(row) < 10
    assert (Masking(pieces)(row, np.random.default_rng(0))[1] != -100).sum() == 1


def test_a_row_of_nothing_but_special_tokens_stays_as_it_is(pieces):
    row = np.array([pieces.cls_token_id, pieces.sep_token_id])
    hidden, labels = Masking(pieces)(row, np.random.default_rng(0))
    assert (hidden.tolist(), labels.tolist()) == (row.tolist(), [-100, -100])


def test_whole_words_are_hidden_with_all_their_pieces(pieces, ids):
    chosen = Masking(pieces, whole_word=True)(ids, np.random.default_rng(0))[1] != -100
    assert 0.1 < chosen.mean() < 0.2
    tokens = pieces.convert_ids_to_tokens(ids.tolist())
    for place, token in enumerate(tokens):
        if token.startswith("##"):
            assert chosen[place] == chosen[place - 1]
    single = Masking(pieces)(ids, np.random.default_rng(0))[1] != -100
    assert any(single[i] != single[i - 1] for i, token in enumerate(tokens) if token.startswith("##"))


def test_every_chinese_character_is_a_word_of_its_own():
    tokenizer = build_tokenizer(["今天天气很好 unbelievable"], vocab_size=60)
    ids = np.array(tokenizer("今天天气很好今天天气很好今天天气很好")["input_ids"])
    chosen = Masking(tokenizer, whole_word=True)(ids, np.random.default_rng(0))[1] != -100
    assert chosen.sum() == round(0.15 * 18)


def test_a_row_is_a_function_of_seed_epoch_and_row(pieces):
    rows = encode(pieces, [[TEXT] * 3], np.zeros(3, np.int64), 64)

    def at(row: int, epoch: int, seed: int | None = 0) -> list[int]:
        return MaskedRows(rows, Masking(pieces), seed)[row, epoch]["labels"].tolist()

    np.random.seed(0)
    first = at(1, 2)
    np.random.seed(1)
    assert at(1, 2) == first
    assert first not in (at(0, 2), at(1, 3), at(1, 2, seed=1))
    assert at(1, 2, None) == at(1, 5, None) == MaskedRows(rows, Masking(pieces))[1]["labels"].tolist()


def test_the_places_to_guess_are_those_with_labels(pieces):
    row = MaskedRows(encode(pieces, [[TEXT]], np.zeros(1, np.int64), 64), Masking(pieces), 0)[0, 0]
    assert (row["logits_mask"] == (row["labels"] != -100)).all()
    assert row["sample_id"] == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"share": 0.0}, "share=0 would hide nothing"),
        ({"share": 1.5}, "`share` to be from 0 to 1"),
        ({"masked": 0.8, "random": 0.4}, r"`masked \+ random` to be from 0 to 1"),
    ],
)
def test_shares_that_make_no_sense_are_refused(pieces, settings, words):
    with pytest.raises(DataError, match=words):
        Masking(pieces, **settings)


def test_tokenizers_that_cannot_are_refused(tokenizer, make_tokenizer):
    with pytest.raises(DataError, match="has no mask token; use the tokenizer of a masked language model"):
        Masking(tokenizer)
    words = make_tokenizer(mask_token="[MASK]")
    with pytest.raises(DataError, match="has no mark for pieces that begin a word; leave whole_word out"):
        Masking(words, whole_word=True)
