from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import PreTrainedModel

from kd_lightning import FeatureTap, students
from kd_lightning.core.errors import ConfigError
from kd_lightning.models.bigru import BiGRUConfig, BiGRUForSequenceClassification, BiGRULayer

Make = Callable[..., PreTrainedModel]


def tiny(**fields: object) -> BiGRUForSequenceClassification:
    torch.manual_seed(0)
    return BiGRUForSequenceClassification(BiGRUConfig(**({"vocab_size": 40, "hidden_size": 12} | fields))).eval()


def packed(layer: BiGRULayer, states: Tensor, lengths: list[int]) -> Tensor:
    """Return the output of PyTorch's own packed bidirectional GRU with the layer's weights."""
    width = states.shape[-1]
    gru = nn.GRU(width, width, batch_first=True, bidirectional=True)
    for name, parameter in layer.rightward.named_parameters():
        getattr(gru, name).data.copy_(parameter)
    for name, parameter in layer.leftward.named_parameters():
        getattr(gru, f"{name}_reverse").data.copy_(parameter)
    out, _ = gru(pack_padded_sequence(states, torch.tensor(lengths), batch_first=True, enforce_sorted=False))
    merged = layer.merge(pad_packed_sequence(out, batch_first=True, total_length=states.shape[1])[0])
    return merged * (torch.arange(states.shape[1]) < torch.tensor(lengths)[:, None])[..., None]


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_a_layer_agrees_with_a_packed_bidirectional_gru(seed: int, lengths: list[int]) -> None:
    torch.manual_seed(seed)
    layer, states = BiGRULayer(5), torch.randn(len(lengths), 6, 5)
    keep = torch.arange(6) < torch.tensor(lengths)[:, None]
    torch.testing.assert_close(layer(states, keep), packed(layer, states, lengths))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_masked_tokens_have_no_influence_at_any_position(seed: int) -> None:
    torch.manual_seed(seed)
    model, ids, mask = tiny(), torch.randint(1, 40, (3, 7)), torch.rand(3, 7) < 0.6
    mask[:, 3] = True
    logits = model(ids, mask.long()).logits
    garbage = torch.where(mask, ids, torch.randint(1, 40, (3, 7)))
    torch.testing.assert_close(model(garbage, mask.long()).logits, logits)
    for row in range(3):
        torch.testing.assert_close(model(ids[row][mask[row]][None]).logits[0], logits[row])


def test_padding_gets_no_gradient() -> None:
    model, ids = tiny(pad_token_id=None), torch.tensor([[5, 6, 7, 8]])
    model(ids, torch.tensor([[1, 1, 0, 0]]), labels=torch.tensor([1])).loss.backward()
    reached = model.get_input_embeddings().weight.grad.abs().sum(1) > 0
    assert reached.nonzero().flatten().tolist() == [5, 6]


def test_a_row_without_tokens_is_finite_and_its_gradient_too() -> None:
    model = tiny()
    loss = model(torch.tensor([[5, 6]]), torch.tensor([[0, 0]]), labels=torch.tensor([1])).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_tap_finds_embeddings_and_gru_output_as_hidden_0_and_1() -> None:
    model, ids = tiny(), torch.tensor([[5, 6, 7]])
    states = model(ids, output_hidden_states=True).hidden_states
    with FeatureTap(model, ["hidden.0", "hidden.1"]) as tap:
        model(ids)
        features = tap.take()
    assert torch.equal(states[0], model.get_input_embeddings()(ids))
    assert torch.equal(features["hidden.0"], states[0])
    assert torch.equal(features["hidden.1"], states[1])
    assert states[1].shape == (1, 3, 12)


def test_it_learns_to_tell_word_orders_apart() -> None:
    torch.manual_seed(0)
    model = tiny().train()
    ids = torch.tensor([[5, 6], [6, 5]]).repeat(4, 1)
    labels = torch.tensor([0, 1]).repeat(4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        model(ids, labels=labels).loss.backward()
        optimizer.step()
    assert (model.eval()(ids).logits.argmax(-1) == labels).all()


def test_initialisation_follows_the_configuration() -> None:
    model = tiny(hidden_size=64, initializer_range=0.5, vocab_size=400)
    layer = model.bigru.layers[0]
    recurrent = layer.rightward.weight_hh_l0
    assert model.bigru.embed_tokens.weight[1:].std().item() == pytest.approx(0.5, rel=0.05)
    assert not model.bigru.embed_tokens.weight[0].any()
    assert not layer.leftward.bias_ih_l0.any()
    torch.testing.assert_close(recurrent.T @ recurrent, torch.eye(64), atol=1e-5, rtol=0)


def test_a_token_classifier_learns_from_unmasked_labels_only() -> None:
    model = students.bigru(BiGRUConfig(vocab_size=40), hidden_size=12, task="token-classification", num_labels=3)
    output = model(torch.tensor([[5, 6]]), labels=torch.tensor([[-100, 2]]))
    expected = nn.functional.cross_entropy(output.logits[0, 1:], torch.tensor([2]))
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.slow
def test_a_saved_bigru_loads_with_the_auto_class_in_a_fresh_interpreter(tmp_path: Path) -> None:
    model, ids = tiny(num_labels=3), torch.tensor([[5, 6, 7]])
    model.save_pretrained(tmp_path / "student")
    torch.save(model(ids).logits, tmp_path / "logits.pt")
    code = f"""
import torch
from transformers import AutoModelForSequenceClassification
import kd_lightning.models
kd_lightning.models.register()
model = AutoModelForSequenceClassification.from_pretrained(r"{tmp_path / "student"}").eval()
torch.testing.assert_close(model(torch.tensor([[5, 6, 7]])).logits, torch.load(r"{tmp_path / "logits.pt"}"))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


def test_registering_twice_is_harmless() -> None:
    students.register()
    students.register()


def test_the_teachers_embeddings_can_be_copied(make_teacher: Make) -> None:
    teacher = make_teacher()
    student = students.bigru(teacher, hidden_size=24, embeddings=True)
    weight, source = student.get_input_embeddings().weight, teacher.get_input_embeddings().weight
    assert torch.equal(weight, source)
    assert weight.data_ptr() != source.data_ptr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": "uniform"}, "A BiGRU has no transformer layers"),
        ({"num_heads": 2}, "A BiGRUConfig has no field 'num_heads'"),
        ({"task": "masked-lm"}, "A BiGRU has no head for masked-lm"),
        ({"embeddings": True}, r"equal shapes, but the student's are \[40, 768\] and the teacher's \[40, 24\]"),
    ],
)
def test_a_wrong_argument_is_one_sentence(make_teacher: Make, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        students.bigru(make_teacher(), **arguments)


def test_compiling_changes_nothing() -> None:
    model, ids, mask = tiny(), torch.tensor([[5, 6, 7]]), torch.tensor([[1, 1, 0]])
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(ids, mask).logits, model(ids, mask).logits)


@pytest.mark.parametrize("task", ["question-answering", "masked-lm"])
@pytest.mark.parametrize("layers", [None, "uniform"])
def test_a_head_it_does_not_have_is_refused_before_anything_else(task: str, layers: str | None) -> None:
    with pytest.raises(ConfigError, match=f"no head for {task}.*t3, t3small, t4tiny"):
        students.bigru(BiGRUConfig(), task=task, layers=layers)
