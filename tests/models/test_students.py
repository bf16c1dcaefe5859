from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import get_type_hints

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    CLIPConfig,
    ElectraConfig,
    PreTrainedConfig,
    PreTrainedModel,
    T5Config,
)

from kd_lightning import students
from kd_lightning.core.errors import ConfigError

BERT_BASE_CASED = BertConfig(vocab_size=28996)
Make = Callable[..., PreTrainedModel]

PUBLISHED = {  # TextBrewer's table: parameters in millions, without the task head
    "t6": (65, 6, 768, 3072),
    "t3": (44, 3, 768, 3072),
    "t3_small": (17, 3, 384, 1536),
    "t4_tiny": (14, 4, 312, 1200),
    "t12_nano": (17, 12, 256, 1024),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_students_of_bert_base_have_the_published_sizes(name: str) -> None:
    millions, layers, width, feed_forward = PUBLISHED[name]
    with torch.device("meta"):
        student = getattr(students, name)(BERT_BASE_CASED, task="feature-extraction")
    config = student.config
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (layers, width, feed_forward)
    assert student.num_parameters() / 1e6 == pytest.approx(millions, abs=0.8)


def test_the_bigru_has_the_published_size() -> None:
    with torch.device("meta"):
        student = students.bigru(BERT_BASE_CASED, task="feature-extraction")
    assert round(student.num_parameters() / 1e6) == 31


@pytest.mark.parametrize(("pieces", "millions"), [(30522, 14), (21128, 12)])  # google/…, hfl/chinese-…-180g-small
@pytest.mark.parametrize("family", [BertConfig, ElectraConfig])
def test_electra_small_has_the_published_size_whatever_its_teacher(
    family: type[PreTrainedConfig], pieces: int, millions: int
) -> None:
    with torch.device("meta"):
        student = students.electra_small(family(vocab_size=pieces), task="feature-extraction")
    config = student.config
    assert type(student).__name__ == "ElectraModel"
    assert (config.num_hidden_layers, config.hidden_size, config.embedding_size) == (12, 256, 128)
    assert (config.num_attention_heads, config.intermediate_size, config.vocab_size) == (4, 1024, pieces)
    assert student.num_parameters() / 1e6 == pytest.approx(millions, abs=0.6)


@pytest.mark.parametrize(
    ("task", "shape"),
    [("sequence-classification", (1, 3)), ("token-classification", (1, 4, 3)), ("masked-lm", (1, 4, 40))],
)
def test_electra_small_has_every_head(make_teacher: Make, task: str, shape: tuple[int, ...]) -> None:
    student = students.electra_small(make_teacher(), task=task, num_labels=3, num_hidden_layers=2)
    assert student(torch.ones(1, 4, dtype=torch.long)).logits.shape == shape


def test_electra_small_answers_questions(make_teacher: Make) -> None:
    student = students.electra_small(make_teacher("roberta"), task="question-answering", num_hidden_layers=1)
    assert student(torch.full((2, 4), 3)).end_logits.shape == (2, 4)


def test_electra_small_has_its_teachers_labels_and_padding(make_teacher: Make) -> None:
    teacher = make_teacher(pad_token_id=7, num_labels=3, problem_type="multi_label_classification")
    student = students.electra_small(teacher, num_hidden_layers=1)
    assert (student.config.pad_token_id, student.config.num_labels) == (7, 3)
    assert student.config.problem_type == "multi_label_classification"


def test_electra_small_starts_from_an_electra_teacher_only(make_teacher: Make) -> None:
    teacher = make_teacher("electra", embedding_size=128, hidden_size=256)
    sizes = {"num_hidden_layers": 2, "intermediate_size": 36}
    student = students.electra_small(teacher, layers="uniform", **sizes)
    name = "attention.self.query.weight"
    theirs = teacher.electra.encoder.layer[2].get_parameter(name)
    assert torch.equal(student.electra.encoder.layer[0].get_parameter(name), theirs)
    with pytest.raises(ConfigError, match="cannot start from the layers of a bert teacher: leave `layers` out"):
        students.electra_small(make_teacher(), layers="uniform")


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "modernbert", "deberta"])
@pytest.mark.parametrize("builder", ["t3", "t4_tiny"])
def test_a_student_is_of_its_teachers_family_and_runs_on_padded_batches(
    make_teacher: Make, family: str, builder: str
) -> None:
    teacher = make_teacher(family)
    student = getattr(students, builder)(teacher, num_labels=5, vocab_size=30).eval()
    ids, mask = torch.randint(3, 30, (2, 6)), torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    ids[1, 4:] = student.config.pad_token_id
    logits = student(input_ids=ids, attention_mask=mask).logits
    alone = student(input_ids=ids[1:, :4]).logits
    assert type(student) is type(teacher)
    assert logits.shape == (2, 5)
    torch.testing.assert_close(logits[1:], alone)
    assert student.get_input_embeddings().weight.shape[0] == 30


def test_overrides_win_over_the_size(make_teacher: Make) -> None:
    student = students.t4_tiny(make_teacher(), hidden_size=48, num_hidden_layers=2, hidden_dropout_prob=0.3)
    assert (student.config.hidden_size, student.config.num_hidden_layers) == (48, 2)
    assert student.bert.encoder.layer[0].output.dropout.p == 0.3


@pytest.mark.parametrize(
    ("task", "shape"),
    [("token-classification", (1, 4, 3)), ("masked-lm", (1, 4, 40)), ("multiple-choice", None)],
)
def test_the_head_is_an_argument(make_teacher: Make, task: str, shape: tuple[int, ...] | None) -> None:
    student = students.t3(make_teacher(), task=task, num_labels=3)
    if shape is None:
        assert type(student).__name__ == "BertForMultipleChoice"
    else:
        assert student(torch.ones(1, 4, dtype=torch.long)).logits.shape == shape


def test_a_question_answering_student_gives_start_and_end(make_teacher: Make) -> None:
    output = students.t3(make_teacher(), task="question-answering")(torch.ones(2, 4, dtype=torch.long))
    assert output.start_logits.shape == output.end_logits.shape == (2, 4)


def test_the_teachers_configuration_is_unchanged_and_only_its_architecture_is_inherited() -> None:
    config = BertConfig(vocab_size=40, hidden_size=24, num_attention_heads=4, intermediate_size=36, dtype="bfloat16")
    config.id2label = {0: "no", 1: "yes", 2: "maybe"}
    teacher = BertForSequenceClassification(config)
    teacher.set_attn_implementation("eager")
    before = teacher.config.to_dict()
    student = students.t3(teacher, num_labels=3)
    assert teacher.config.to_dict() == before
    assert student.config is not teacher.config
    assert student.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    assert student.dtype == torch.float32
    assert student.config._attn_implementation == "sdpa"


def test_an_electra_students_embedding_is_never_wider_than_the_student(make_teacher: Make) -> None:
    teacher = make_teacher("electra", embedding_size=24)
    assert students.t3(teacher).config.embedding_size == 24
    assert students.t3(teacher, hidden_size=12).config.embedding_size == 12
    assert students.t3(make_teacher("electra"), hidden_size=48).config.embedding_size == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hiden_size": 12}, "no field 'hiden_size'. Closest: hidden_size"),
        ({"task": "token-clasification"}, "Unknown task 'token-clasification'. Closest: token-classification"),
        ({"hidden_size": 25}, "4 do not divide 25"),
        ({"vocab_size": 10, "pad_token_id": 10}, "padding token 10 is outside a vocabulary of 10"),
    ],
)
def test_a_wrong_argument_is_one_sentence(make_teacher: Make, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        students.t3(make_teacher(), **arguments)


BUILDERS = ("bigru", "electra_small", "pretrained", "saved", "shrink", "t12_nano", "t3", "t3_small", "t4_tiny", "t6")


@pytest.mark.parametrize("name", BUILDERS)
def test_builders_are_annotated_and_take_what_the_command_gives_them_by_name(name: str) -> None:
    """LightningCLI builds a model by a function only if its signature says that it returns a module."""
    builder = getattr(students, name)
    parameters = inspect.signature(builder).parameters
    hints = get_type_hints(builder)
    assert hints.pop("return") is torch.nn.Module
    assert hints.keys() == parameters.keys()
    given = {"like": BERT_BASE_CASED, "task": "masked-lm", "num_labels": 2, "vocab_size": 30, "pad_token_id": 0}
    first = {"pretrained": {"name": "x"}, "saved": {"folder": "x"}}.get(name, {})
    inspect.signature(builder).bind(**first, **given)


@pytest.mark.parametrize("config", [T5Config(), CLIPConfig()], ids=["t5", "clip"])
def test_other_families_are_refused_in_a_sentence(config: object) -> None:
    with pytest.raises(ConfigError, match="Cannot shrink a"):
        students.t3(config)


def test_a_teacher_without_a_configuration_is_refused() -> None:
    with pytest.raises(ConfigError, match="Expected a Transformers model or configuration to build like, got Linear"):
        students.t3(torch.nn.Linear(2, 2))
