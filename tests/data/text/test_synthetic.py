from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
import pytest
import torch

from kd_lightning.core.errors import DataError
from kd_lightning.data import SyntheticSentiment
from kd_lightning.data.text.synthetic import ADJECTIVES, FILM, OTHER, WORDS, review


def value_of(sentence: str) -> float:
    """Reads a sentence by the rules in `review`'s docstring, word by word, apart from the code that writes them."""
    total, weight, about_film, turned, degree = 0.0, 1.0, False, 1.0, 1.0
    for word in sentence.split():
        if word == "the":
            turned, about_film = 1.0, False
        elif word in FILM:
            about_film = True
        elif word in ("but", "although"):
            weight = 2.0 if word == "but" else 0.5
        elif word in ("not", "never", "hardly"):
            turned = -0.5
        elif word in ("very", "extremely", "truly", "remarkably"):
            degree = 2.0
        elif word in ("slightly", "somewhat", "rather", "mildly"):
            degree = 0.5
        elif word in ADJECTIVES:
            total += weight * turned * degree * ADJECTIVES[word] * about_film
            degree = 1.0
    return total


def test_the_value_is_what_the_rules_say():
    random = Random(0)
    for _ in range(3000):
        sentence, value = review(random)
        assert value_of(sentence) == pytest.approx(value), sentence
        assert abs(value) >= 0.5


def test_the_rules_hold_on_sentences_read_by_eye():
    assert value_of("the film was not very good .") == -2.0
    assert value_of("the popcorn was awful and the plot was superb .") == 3.0
    assert value_of("the film was good but the ending was slow .") == 0.0
    assert value_of("the film was good although the ending was awful .") == 0.5


def test_the_same_seed_makes_the_same_data_and_another_makes_other():
    def rows(seed: int) -> list:
        data = SyntheticSentiment(train_size=60, validation_size=10, seed=seed)
        return [(batch["input_ids"].tolist(), batch["labels"].tolist()) for batch in data.train_dataloader()]

    assert rows(0) == rows(0)
    assert rows(0) != rows(1)


def test_what_shapes_the_data_is_in_the_fingerprint():
    def made(**settings) -> str:
        return SyntheticSentiment(**({"train_size": 50, "validation_size": 10} | settings)).fingerprint

    changes = [{}, {"seed": 1}, {"label_noise": 0.2}, {"train_size": 51}, {"validation_size": 11}, {"max_length": 32}]
    assert len({made(**change) for change in changes}) == len(changes)
    assert made(batch_size=2) == made()


def test_classes_are_balanced_and_splits_share_no_sentence():
    data = SyntheticSentiment(train_size=2000, validation_size=500)
    train, noisy = data.sentences("train")
    validation, labels = data.sentences("validation")
    assert labels.mean() == 0.5
    assert abs(noisy.mean() - 0.5) < 0.05
    assert len(set(train)) == 2000
    assert not set(train) & set(validation)


def test_noise_turns_its_share_of_training_labels_and_no_other():
    clean, noisy = (SyntheticSentiment(train_size=4000, label_noise=noise) for noise in (0.0, 0.2))
    assert clean.sentences("train")[0] == noisy.sentences("train")[0]
    turned = (clean.sentences("train")[1] != noisy.sentences("train")[1]).mean()
    assert abs(turned - 0.2) < 0.02
    truth = [int(value_of(text) > 0) for text in noisy.sentences("validation")[0]]
    assert noisy.sentences("validation")[1].tolist() == truth


def test_no_single_word_gives_the_answer_away():
    texts, labels = SyntheticSentiment(train_size=8000, label_noise=0.0).sentences("train")
    seen, kind = Counter(), Counter()
    for text, label in zip(texts, labels, strict=True):
        seen.update(set(text.split()))
        kind.update(set(text.split()) if label else ())
    share = {word: kind[word] / seen[word] for word in seen}
    assert 0.1 < min(share.values()) < 0.4
    assert 0.6 < max(share.values()) < 0.9
    assert all(0.4 < share[word] < 0.6 for word in OTHER)


def test_counting_words_finds_something_but_not_enough():
    data = SyntheticSentiment(train_size=6000, validation_size=1500, label_noise=0.0)
    numbers = {word: i for i, word in enumerate(WORDS)}

    def counts(texts: list[str]) -> np.ndarray:
        rows = np.zeros((len(texts), len(WORDS) + 1))
        for row, text in zip(rows, texts, strict=True):
            np.add.at(row, [numbers[word] for word in text.split()], 1)
        rows[:, -1] = 1
        return rows

    texts, labels = data.sentences("train")
    weights = np.linalg.lstsq(counts(texts), labels * 2.0 - 1, rcond=None)[0]
    texts, labels = data.sentences("validation")
    accuracy = ((counts(texts) @ weights > 0) == labels).mean()
    assert 0.55 < accuracy < 0.75


def test_every_word_is_one_known_token_and_no_row_is_cut():
    data = SyntheticSentiment(train_size=3000, validation_size=10)
    data.setup()
    assert data.tokenizer.unk_token_id not in data._rows["train"].fields["input_ids"]
    assert data._rows["train"].lengths.max() < 48 < data.max_length


def test_the_tokenizer_survives_saving(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = SyntheticSentiment(train_size=1, validation_size=1).tokenizer
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    sentence = "the plot was not very good ."
    assert loaded(sentence)["input_ids"] == tokenizer(sentence)["input_ids"]


def test_a_classifier_takes_the_batches_as_they_are():
    from transformers import BertConfig, BertForSequenceClassification

    data = SyntheticSentiment(train_size=8, validation_size=8, batch_size=4)
    batch = next(iter(data.train_dataloader()))
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertForSequenceClassification(BertConfig(vocab_size=len(data.tokenizer), **sizes))
    batch.pop("sample_id")
    assert torch.isfinite(model(**batch).loss)


def test_limit_cuts_both_splits_and_keeps_what_is_left():
    whole, cut = (SyntheticSentiment(train_size=90, validation_size=30, limit=limit) for limit in (None, 40))
    cut.setup()
    assert cut.sizes == {"train": 40, "validation": 30}
    assert cut.texts("validation") == whole.texts("validation")
    assert cut.fingerprint != whole.fingerprint


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(DataError, match="label_noise"):
        SyntheticSentiment(label_noise=0.5)
    with pytest.raises(DataError, match="sizes 0 and 1000"):
        SyntheticSentiment(train_size=0)
    with pytest.raises(DataError, match="sizes 0 and 0"):
        SyntheticSentiment(limit=0)
