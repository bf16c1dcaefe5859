"""Word embeddings of a student with a tokenizer of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kd_lightning.core.errors import ConfigError
from kd_lightning.data import build_tokenizer
from kd_lightning.data.text.synthetic import word_tokenizer
from kd_lightning.models.vocabulary import transfer_vocabulary

from ..toys import bert

TEXTS = ["the unbelievable film", "a believable plot", "films and plots"]


def table(model: Any) -> torch.Tensor:
    return model.get_input_embeddings().weight.detach().clone()


def test_a_token_of_both_is_copied_and_another_is_the_mean_of_its_parts():
    pieces, words = build_tokenizer(TEXTS, vocab_size=60), word_tokenizer(["film", "unbelievable", "the", "ß"])
    teacher, student = bert(1, vocab_size=len(pieces)), bert(1, vocab_size=len(words), seed=1)
    source, before = table(teacher), table(student)
    assert transfer_vocabulary(teacher, student, pieces, words) == len(words) - 1
    after = table(student)
    for role in ("pad", "unk", "cls", "sep"):
        own, other = (getattr(t, f"{role}_token_id") for t in (words, pieces))
        assert torch.equal(after[own], source[other])
    for word in ("film", "unbelievable", "the"):
        ids = pieces(word, add_special_tokens=False)["input_ids"]
        torch.testing.assert_close(after[words.get_vocab()[word]], source[ids].mean(0))
    unknown = words.get_vocab()["ß"]
    assert torch.equal(after[unknown], before[unknown])


def test_the_teacher_is_not_changed_and_nothing_is_shared():
    tokenizer = word_tokenizer(["film"])
    teacher, student = bert(1, vocab_size=5), bert(1, vocab_size=5, seed=1)
    source = table(teacher)
    transfer_vocabulary(teacher, student, tokenizer, tokenizer)
    student.get_input_embeddings().weight.data.zero_()
    assert torch.equal(table(teacher), source)


def test_a_narrower_student_keeps_evenly_spread_units():
    tokenizer = word_tokenizer(["film"])
    teacher, student = bert(1, width=16, vocab_size=5), bert(1, width=8, vocab_size=5, seed=1)
    transfer_vocabulary(teacher, student, tokenizer, tokenizer)
    assert torch.equal(table(student), table(teacher)[:, ::2])


def test_a_wider_student_is_refused():
    tokenizer = word_tokenizer(["film"])
    with pytest.raises(
        ConfigError, match=r"The student's words \(16 wide\) cannot start from the teacher's \(8 wide\)"
    ):
        transfer_vocabulary(bert(1, width=8, vocab_size=5), bert(1, width=16, vocab_size=5), tokenizer, tokenizer)
