"""A narrower student that starts from its teacher's embeddings."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

from kd_lightning.errors import ConfigError
from kd_lightning.students import project_embeddings, t4_tiny


def bert(width: int, vocabulary: int = 60, kind: type = BertModel) -> BertModel:
    torch.manual_seed(width)
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    return kind(config)


def low_rank_teacher(rank: int) -> BertModel:
    teacher = bert(32, kind=BertForSequenceClassification)
    with torch.no_grad():
        teacher.get_input_embeddings().weight.copy_(torch.randn(60, rank) @ torch.randn(rank, 32))
    return teacher


def test_inner_products_survive_where_the_words_fill_no_more_than_the_students_width():
    teacher, student = low_rank_teacher(rank=6), bert(8)
    project_embeddings(teacher, student)
    wide, narrow = teacher.get_input_embeddings().weight, student.get_input_embeddings().weight
    torch.testing.assert_close(narrow @ narrow.T, wide @ wide.T, atol=1e-3, rtol=1e-4)


def test_no_coordinate_carries_most_of_the_variance():
    teacher, student = low_rank_teacher(rank=2), bert(16)
    project_embeddings(teacher, student)
    shares = student.get_input_embeddings().weight.var(0)
    assert float((shares / shares.sum()).max()) < 0.5


def test_words_positions_and_segments_are_filled_whatever_the_heads():
    names = project_embeddings(bert(32, kind=BertForSequenceClassification), bert(8))
    assert sorted(name.rpartition(".")[-1] for name in names) == [
        "position_embeddings",
        "token_type_embeddings",
        "word_embeddings",
    ]


@pytest.mark.parametrize(("width", "vocabulary"), [(64, 60), (8, 50)])
def test_a_wider_student_or_another_vocabulary_is_refused_in_a_sentence(width: int, vocabulary: int):
    with pytest.raises(ConfigError, match=r"one vocabulary and a student no wider"):
        project_embeddings(bert(32), bert(width, vocabulary))


def test_a_builder_takes_it_as_an_option_and_the_teacher_stays_as_it_was():
    teacher = bert(32, kind=BertForSequenceClassification)
    before = teacher.get_input_embeddings().weight.clone()
    student = t4_tiny(teacher, embeddings="projected", hidden_size=8, num_attention_heads=2, intermediate_size=16)
    assert student.get_input_embeddings().weight.shape == (60, 8)
    assert torch.equal(before, teacher.get_input_embeddings().weight)
    with pytest.raises(ConfigError, match="needs the teacher itself"):
        t4_tiny(teacher.config, embeddings="projected")
