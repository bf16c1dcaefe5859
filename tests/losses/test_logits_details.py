"""What a user of logits losses relies on beyond the contract."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import BertConfig, BertForQuestionAnswering, BertForSequenceClassification, BertForTokenClassification
from transformers.modeling_outputs import ModelOutput

from kd_lightning import losses
from kd_lightning.core.errors import MatchError

TINY = {
    "vocab_size": 11,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}
IDS = torch.arange(10).reshape(2, 5)


def run(model: type, problem_type: str | None = None, num_labels: int = 3, **targets: torch.Tensor) -> ModelOutput:
    torch.manual_seed(0)
    return model(BertConfig(**TINY, num_labels=num_labels, problem_type=problem_type)).eval()(input_ids=IDS, **targets)


def test_hard_label_equals_the_hugging_face_loss_for_classification() -> None:
    labels = torch.tensor([2, 0])
    output = run(BertForSequenceClassification, labels=labels)
    torch.testing.assert_close(losses.HardLabel()(output.logits, labels), output.loss)


def test_hard_label_equals_the_hugging_face_loss_for_several_labels() -> None:
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    output = run(BertForSequenceClassification, "multi_label_classification", labels=labels)
    torch.testing.assert_close(losses.HardLabels()(output.logits, labels), output.loss)


def test_hard_label_equals_the_hugging_face_loss_for_tokens() -> None:
    labels = torch.tensor([[0, 1, -100, 2, 1], [-100, 2, 2, 0, -100]])
    output = run(BertForTokenClassification, labels=labels)
    torch.testing.assert_close(losses.HardLabel()(output.logits, labels, torch.ones(2, 5)), output.loss)


def test_two_hard_labels_equal_the_hugging_face_loss_for_spans() -> None:
    start, end = torch.tensor([1, 9]), torch.tensor([4, 2])  # 9 lies outside and is ignored
    output = run(BertForQuestionAnswering, num_labels=2, start_positions=start, end_positions=end)
    loss, mask = losses.HardLabel(), torch.ones(2, 5)
    ours = (loss(output.start_logits, start, mask) + loss(output.end_logits, end, mask)) / 2
    torch.testing.assert_close(ours, output.loss)


def test_a_single_logit_is_taught_as_yes_or_no_or_as_a_value_and_a_single_position_is_certain() -> None:
    student, teacher = torch.tensor([[1.0], [-2.0]], requires_grad=True), torch.tensor([[3.0], [0.0]])
    for loss in (losses.SoftLabels(), losses.LogitMSE()):
        assert torch.autograd.grad(loss(student, teacher), student)[0].abs().min() > 0.01
    assert losses.SoftTarget()(student, teacher, torch.ones(2, 1)) == 0  # start logits of texts of one token


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_label_smoothing_equals_pytorch(smoothing: float) -> None:
    logits, labels = torch.randn(5, 4), torch.tensor([0, -100, 3, 1, 1])
    expected = cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(losses.HardLabel(smoothing)(logits, labels), expected)


def test_multilabel_targets_may_be_probabilities() -> None:
    logits, labels = torch.randn(5, 4), torch.rand(5, 4)
    expected = binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(losses.HardLabels()(logits, labels), expected)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e9])
def test_garbage_in_the_logits_of_an_ignored_label_has_no_gradient(garbage: float) -> None:
    logits, labels = torch.randn(2, 3), torch.tensor([1, -100])
    expected = losses.HardLabel()(logits, labels)
    logits[1] = garbage
    value = losses.HardLabel()(logits.requires_grad_(), labels)
    value.backward()
    assert value == expected
    assert (logits.grad[1] == 0).all()
    assert logits.grad.isfinite().all()


def test_a_class_label_that_does_not_exist_is_never_ignored() -> None:
    with pytest.raises(MatchError, match="got the label 3 in row 1, but the logits have 3 classes"):
        losses.HardLabel()(torch.zeros(2, 3), torch.tensor([0, 3]))


def test_a_span_that_starts_in_padding_is_ignored() -> None:
    logits, mask = torch.randn(2, 4), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    expected = losses.HardLabel()(logits[:1], torch.tensor([1]))
    torch.testing.assert_close(losses.HardLabel()(logits, torch.tensor([1, 3]), mask), expected)
    assert losses.HardLabel().count(logits, torch.tensor([1, 3]), mask) == 1


def test_classes_both_models_exclude_by_minus_infinity_have_no_part() -> None:
    student, teacher = torch.randn(2, 3), torch.randn(2, 3)
    excluded = torch.full((2, 1), -float("inf"))
    loss = losses.SoftTarget(2.0)
    wide = torch.cat([student, excluded], 1).requires_grad_()
    value = loss(wide, torch.cat([teacher, excluded], 1))
    torch.testing.assert_close(value, loss(student, teacher))
    value.backward()
    assert wide.grad.isfinite().all()


def test_t_squared_keeps_the_gradient_s_size() -> None:
    teacher = torch.linspace(-1, 2, 20, dtype=torch.float64).reshape(4, 5).sin()
    norms = []
    for temperature in (20.0, 40.0):
        student = torch.zeros(4, 5, dtype=torch.float64, requires_grad=True)
        losses.SoftTarget(temperature)(student, teacher).backward()
        norms.append(student.grad.norm())
    assert norms[0] == pytest.approx(norms[1].item(), rel=0.05)


def test_kl_and_ce_have_the_same_gradient() -> None:
    teacher, grads = torch.randn(4, 5), []
    for loss in (losses.SoftTarget(2.0), losses.SoftCrossEntropy(2.0)):
        student = torch.ones(4, 5, requires_grad=True)
        loss(student * torch.arange(5.0), teacher).backward()
        grads.append(student.grad)
    torch.testing.assert_close(*grads)
