from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import AlbertConfig, AlbertForSequenceClassification, PreTrainedModel

from kd_lightning import students
from kd_lightning.core.errors import ConfigError, MatchError

Make = Callable[..., PreTrainedModel]
STACKS = {
    "bert": lambda model: model.bert.encoder.layer,
    "roberta": lambda model: model.roberta.encoder.layer,
    "electra": lambda model: model.electra.encoder.layer,
    "distilbert": lambda model: model.distilbert.transformer.layer,
    "deberta": lambda model: model.deberta.encoder.layer,
}


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    one_state, other_state = one.state_dict(), other.state_dict()
    return one_state.keys() == other_state.keys() and all(torch.equal(one_state[k], other_state[k]) for k in one_state)


@pytest.mark.parametrize("family", STACKS)
def test_chosen_layers_are_bit_equal_and_not_shared(make_teacher: Make, family: str) -> None:
    teacher = make_teacher(family)
    student = students.t3(teacher, layers=[2, 4, 6])
    for index, chosen in enumerate([2, 4, 6]):
        assert equal(STACKS[family](student)[index], STACKS[family](teacher)[chosen - 1])
    mine = {parameter.data_ptr() for parameter in student.parameters()}
    assert mine.isdisjoint(parameter.data_ptr() for parameter in teacher.parameters())


@pytest.mark.parametrize(("rule", "chosen"), [("uniform", [4, 8, 12]), ("last", [10, 11, 12]), ("skip", [4, 8, 12])])
def test_rules_choose_layers_of_a_twelve_layer_teacher(make_teacher: Make, rule: str, chosen: list[int]) -> None:
    teacher = make_teacher()
    student = students.t3(teacher, layers=rule)
    for index, layer in enumerate(chosen):
        assert equal(student.bert.encoder.layer[index], teacher.bert.encoder.layer[layer - 1])


def test_embeddings_pooler_and_head_are_copied_too(make_teacher: Make) -> None:
    teacher = make_teacher()
    student = students.t3(teacher, layers="uniform")
    assert equal(student.bert.embeddings, teacher.bert.embeddings)
    assert equal(student.bert.pooler, teacher.bert.pooler)
    assert equal(student.classifier, teacher.classifier)


def test_all_layers_of_the_teacher_give_the_teacher(make_teacher: Make) -> None:
    teacher = make_teacher("distilbert")
    student = students.t6(teacher, layers=[1, 2, 3, 4, 5, 6]).eval()
    ids = torch.randint(0, 40, (2, 5))
    assert torch.equal(student(ids).logits, teacher(ids).logits)


def test_another_vocabulary_and_other_labels_keep_their_own_values_and_are_reported(make_teacher: Make) -> None:
    teacher = make_teacher()
    student = students.t3(teacher, vocab_size=30, num_labels=5)
    words = student.bert.embeddings.word_embeddings.weight.clone()
    kept = students.copy_layers(teacher, student, "uniform")
    assert kept == ["embeddings.word_embeddings.weight", "classifier.weight", "classifier.bias"]
    assert torch.equal(student.bert.embeddings.word_embeddings.weight, words)


def test_a_bare_body_starts_a_student_with_a_head(make_teacher: Make) -> None:
    teacher = make_teacher(head="Model")
    student = students.t3(teacher, layers=[1, 2, 3])
    assert equal(student.bert.encoder.layer[2], teacher.encoder.layer[2])
    assert equal(student.bert.embeddings, teacher.embeddings)


def test_a_half_precision_teacher_starts_a_float32_student(make_teacher: Make) -> None:
    teacher = make_teacher().bfloat16()
    student = students.t3(teacher, layers="last")
    weight = student.bert.encoder.layer[0].output.dense.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, teacher.bert.encoder.layer[9].output.dense.weight.float())


def test_a_compiled_teacher_starts_a_student(make_teacher: Make) -> None:
    teacher = make_teacher()
    student = students.t3(make_teacher())
    assert students.copy_layers(torch.compile(teacher), student, [1, 2, 3]) == []
    assert equal(student.bert.encoder.layer[0], teacher.bert.encoder.layer[0])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([1, 2, 13], "names teacher layer 13"),
        ([0, 1, 2], "counted from 1 to 12"),
        ([1, 2, 3, 4], "one teacher layer for each of the student's 3"),
        ([1, 2], "one teacher layer for each of the student's 3"),
        (3, "to be a rule, such as 'uniform', or a list"),
        ("unifrom", "Unknown layer map 'unifrom'. Closest: uniform"),
    ],
)
def test_wrong_layers_are_one_sentence(make_teacher: Make, layers: object, message: str) -> None:
    with pytest.raises(MatchError, match=message):
        students.t3(make_teacher(), layers=layers)


def test_a_wider_student_cannot_start_from_layers(make_teacher: Make) -> None:
    with pytest.raises(
        ConfigError, match=r"of the same family and no wider, but .* is .* in the student and .* in the teac"
    ):
        students.t4_tiny(make_teacher(), layers="uniform")


def test_labels_are_the_teachers_unless_given(make_teacher: Make) -> None:
    student = students.t3(make_teacher(num_labels=5), layers="uniform")
    assert student.config.num_labels == 5
    with pytest.raises(ConfigError, match="`num_labels` to be at least 1"):
        students.t3(make_teacher(), num_labels=0)


def test_the_log_says_where_a_student_starts(make_teacher: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        students.t3(make_teacher(), layers="uniform", num_labels=5)
    assert "starts from teacher layers 4, 8, 12; its own: classifier.weight, classifier.bias." in caplog.text


def test_layers_without_a_teacher_are_refused(make_teacher: Make) -> None:
    with pytest.raises(ConfigError, match="starts from a teacher"):
        students.t3(make_teacher().config, layers="uniform")


def test_layers_that_share_their_weights_are_refused() -> None:
    config = AlbertConfig(
        vocab_size=40,
        embedding_size=8,
        hidden_size=24,
        num_attention_heads=4,
        intermediate_size=36,
        num_hidden_layers=6,
    )
    teacher = AlbertForSequenceClassification(config)
    assert students.t3(teacher).config.num_hidden_layers == 3
    with pytest.raises(ConfigError, match=r"runs 6 layers on 1 set\(s\) of weights"):
        students.t3(teacher, layers="uniform")
