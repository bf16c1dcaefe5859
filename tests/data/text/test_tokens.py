from __future__ import annotations

import pickle

import numpy as np
import pytest

from kd_lightning.core.errors import DataError
from kd_lightning.data.text.tokenizing import encode, tokenizer_fingerprint
from kd_lightning.data.text.tokens import TokenRows

TEXTS = ["good film", "bad", "not a very good film", "", "plot " * 30]


def test_rows_are_what_the_tokenizer_gives_one_by_one(tokenizer, monkeypatch):
    monkeypatch.setattr("kd_lightning.data.text.tokenizing.CHUNK", 2)
    rows = encode(tokenizer, [TEXTS], np.array([0, 1, 2, 3, 4]), max_length=10)
    for i, text in enumerate(TEXTS):
        expected = tokenizer(text, truncation=True, max_length=10)
        assert rows[i]["input_ids"].tolist() == expected["input_ids"]
        assert rows[i]["token_type_ids"].tolist() == expected["token_type_ids"]
        assert (rows[i]["labels"], rows[i]["sample_id"]) == (i, i)
        assert rows.lengths[i] == len(expected["input_ids"])


def test_saved_rows_open_mapped_and_equal(tokenizer, tmp_path):
    rows = encode(tokenizer, [TEXTS], np.arange(5), max_length=10)
    rows.save(tmp_path)
    opened = TokenRows.open(tmp_path)
    assert isinstance(opened.fields["input_ids"], np.memmap)
    for copy in (opened, pickle.loads(pickle.dumps(opened))):
        assert [copy[i]["input_ids"].tolist() for i in range(5)] == [rows[i]["input_ids"].tolist() for i in range(5)]


def test_a_missing_file_is_damage(tokenizer, tmp_path):
    encode(tokenizer, [TEXTS], np.arange(5), max_length=10).save(tmp_path)
    (tmp_path / "value.labels.npy").unlink()
    with pytest.raises(DataError, match="is damaged"):
        TokenRows.open(tmp_path)


def test_arrays_of_pickled_objects_are_refused(tokenizer, tmp_path):
    encode(tokenizer, [TEXTS], np.arange(5), max_length=10).save(tmp_path)
    np.save(tmp_path / "value.labels.npy", np.array([{}] * 5), allow_pickle=True)
    with pytest.raises(DataError, match="is damaged"):
        TokenRows.open(tmp_path)


def test_a_tokenizer_keeps_its_fingerprint_through_saving(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path / "a")
    tokenizer.save_pretrained(tmp_path / "b")
    loaded = [tokenizer_fingerprint(AutoTokenizer.from_pretrained(tmp_path / name)) for name in "ab"]
    assert loaded[0] == loaded[1]


def test_words_and_special_tokens_and_sides_are_in_the_fingerprint(make_tokenizer):
    variants = [
        make_tokenizer(),
        make_tokenizer(["film", "good"]),
        make_tokenizer(truncation_side="left"),
        make_tokenizer(model_input_names=["input_ids", "attention_mask"]),
    ]
    variants.append(make_tokenizer())
    variants[-1].add_tokens(["cinema"])
    assert len({tokenizer_fingerprint(tokenizer) for tokenizer in variants}) == len(variants)
    assert tokenizer_fingerprint(make_tokenizer()) == tokenizer_fingerprint(make_tokenizer())


def test_a_tokenizer_without_rust_has_a_fingerprint_too(tmp_path):
    from transformers import CanineTokenizer

    assert tokenizer_fingerprint(CanineTokenizer()) == tokenizer_fingerprint(CanineTokenizer())
