from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from kd_lightning.core.errors import ConfigError
from kd_lightning.models.bigru import bigru
from kd_lightning.models.pretrained import pretrained, saved

TINY = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture
def general(tmp_path: Path) -> Any:
    """A student distilled without a task, saved in `student`."""
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(**TINY))
    model.save_pretrained(tmp_path / "student")
    return model


@pytest.mark.parametrize(
    ("task", "labels"), [("sequence-classification", 5), ("token-classification", 9), ("question-answering", 2)]
)
def test_the_body_is_the_saved_one_and_the_head_that_of_the_task(general, tmp_path, task, labels):
    student = saved(tmp_path / "student", task=task, num_labels=labels)
    before = general.base_model.state_dict()
    after = student.base_model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert student.config.num_labels == labels
    heads = [p for name, p in student.named_parameters() if not name.startswith("bert.")]
    assert heads[0].shape == (labels, 16)


def test_a_head_of_the_same_task_is_kept_unless_the_labels_are_others(general, tmp_path):
    first = saved(tmp_path / "student", num_labels=3)
    first.save_pretrained(tmp_path / "task")
    again, other = (saved(tmp_path / "task", num_labels=labels) for labels in (3, 4))
    assert torch.equal(again.classifier.weight, first.classifier.weight)
    assert other.classifier.weight.shape == (4, 16)


def test_a_head_for_other_labels_or_another_task_is_new_however_many_there_are(general, tmp_path):
    names = {"id2label": {0: "O", 1: "B-PER"}, "label2id": {"O": 0, "B-PER": 1}}
    swapped = {"id2label": {0: "B-PER", 1: "O"}, "label2id": {"O": 1, "B-PER": 0}}
    first = saved(tmp_path / "student", task="token-classification", num_labels=2, **names)
    first.save_pretrained(tmp_path / "tags")
    again = saved(tmp_path / "tags", task="token-classification", num_labels=2, **names)
    others = saved(tmp_path / "tags", task="token-classification", num_labels=2, **swapped)
    answers = saved(tmp_path / "tags", task="question-answering", num_labels=2)
    assert torch.equal(again.classifier.weight, first.classifier.weight)
    assert not torch.equal(others.classifier.weight, first.classifier.weight)
    assert others.config.id2label == swapped["id2label"]
    for student in (others, answers):
        for name, value in general.base_model.state_dict().items():
            assert torch.equal(student.base_model.state_dict()[name], value)


def test_the_problem_type_it_was_saved_for_is_reset(general, tmp_path):
    saved(tmp_path / "student", num_labels=1, problem_type="regression").save_pretrained(tmp_path / "values")
    assert saved(tmp_path / "values", num_labels=2, problem_type=None).config.problem_type is None


def test_a_saved_student_is_float32_whatever_it_was_saved_in(general, tmp_path):
    general.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    assert {p.dtype for p in saved(tmp_path / "half", num_labels=2).parameters()} == {torch.float32}


def test_a_bigru_is_found_again(tmp_path):
    made = bigru(BertConfig(**TINY), hidden_size=8, num_labels=2)
    made.save_pretrained(tmp_path / "gru")
    again = saved(tmp_path / "gru", num_labels=2)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), again.parameters(), strict=True))


def test_a_folder_without_a_model_is_named_with_the_nearest(general, tmp_path):
    with pytest.raises(ConfigError, match=r"student\.path=.*studnet holds no saved model.*Closest: .*student\."):
        saved(tmp_path / "studnet")
    general.save_pretrained(tmp_path / "run" / "student")
    with pytest.raises(ConfigError, match=r"Closest: .*/run/student"):  # the run's folder, not the student's
        saved(tmp_path / "run")


def test_a_pretrained_model_gets_the_head_of_a_task(general, tmp_path):
    student = pretrained(str(tmp_path / "student"), "token-classification", 5, like=BertConfig(), pad_token_id=0)
    assert type(student).__name__ == "BertForTokenClassification"
    assert student.classifier.out_features == 5
    student.save_pretrained(tmp_path / "tags")
    with pytest.raises(ConfigError, match=r"do not fit 3 labels .* add ignore_mismatched_sizes=true"):
        pretrained(str(tmp_path / "tags"), "token-classification", 3)
    other = pretrained(str(tmp_path / "tags"), "token-classification", 3, ignore_mismatched_sizes=True)
    assert other.classifier.out_features == 3


@pytest.mark.parametrize("build", [pretrained, saved])
def test_a_tokenizer_of_more_tokens_than_the_model_has_is_refused(general, tmp_path, build):
    build(str(tmp_path / "student"), vocab_size=30)
    with pytest.raises(ConfigError, match="has a vocabulary of 30, but its tokenizer one of 31"):
        build(str(tmp_path / "student"), vocab_size=31)
