from __future__ import annotations

import copy
import pickle
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from kd_lightning.core.adapter import Adapter
from kd_lightning.core.errors import AddressError, ConfigError
from kd_lightning.teachers import LiveTeacher, as_teacher

from ..toys import bert, hooks_on, mlp, pairs, words


def teacher_of(model: nn.Module, *addresses: str, **options: Any) -> LiveTeacher:
    teacher = LiveTeacher(model, **options)
    teacher.ask(addresses or ["logits"])
    return teacher


def test_a_teacher_is_frozen_and_in_eval_from_the_start():
    model = bert(dropout=0.5).train()
    LiveTeacher(model)
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(module.training for module in model.modules())


def test_features_are_those_of_the_plain_model_and_have_no_gradient():
    model = bert()
    batch = words()
    features = teacher_of(model, "hidden.1", "logits")(batch)
    expected = model.eval()(batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True)
    torch.testing.assert_close(features["hidden.1"], expected.hidden_states[1])
    torch.testing.assert_close(features["logits"], expected.logits)
    assert not any(feature.requires_grad for feature in features.values())


def test_features_may_take_part_in_a_backward_pass():
    teacher = teacher_of(mlp(5), "logits")(pairs())["logits"]
    student = torch.ones_like(teacher, requires_grad=True)
    (student * teacher).sum().backward()  # inference tensors cannot be saved for backward
    torch.testing.assert_close(student.grad, teacher)


def test_dropout_stays_off_when_someone_puts_the_model_back_in_training():
    model = bert(dropout=0.5)
    teacher = teacher_of(model)
    first = teacher(words())["logits"]
    model.train()
    assert torch.equal(teacher(words())["logits"], first)
    assert not model.training


def test_the_students_autocast_does_not_reach_the_teacher():
    teacher = teacher_of(bert(), "hidden.1", "logits")
    plain = teacher(words())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = teacher(words())
        assert torch.is_autocast_enabled("cpu")
    assert all(torch.equal(plain[address], inside[address]) for address in plain)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float64])
def test_a_teacher_runs_in_its_own_precision_whatever_the_inputs(precision, given):
    x, y = pairs()
    teacher = teacher_of(mlp(5), "1", "logits", precision=precision)
    assert {f.dtype for f in teacher((x.to(given), y)).values()} == {getattr(torch, precision)}


@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16, torch.float64])
def test_a_teacher_without_precision_stays_as_it_was_given(own):
    x, y = pairs()
    teacher = teacher_of(mlp(5).to(own))
    for given in (torch.float32, torch.bfloat16):
        assert teacher((x.to(given), y))["logits"].dtype is own


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


@pytest.mark.parametrize(
    "make",
    [lambda x, y: (x, y), lambda x, y: [x, y], Pair, lambda x, y: {"input": x, "labels": y}, lambda x, y: x],
    ids=["tuple", "list", "named", "mapping", "tensor"],
)
def test_every_form_of_batch_is_cast_and_answered(make):
    batch = make(*pairs())
    expected = mlp(5).to(torch.bfloat16)(pairs()[0].to(torch.bfloat16))
    assert torch.equal(teacher_of(mlp(5), precision="bfloat16")(batch)["logits"], expected)


def test_token_numbers_are_not_cast():
    assert teacher_of(bert(), precision="bfloat16")(words())["logits"].dtype is torch.bfloat16


def test_an_unknown_precision_names_the_nearest():
    with pytest.raises(ConfigError, match=r"precision 'bf16'.*(bfloat16|float16)"):
        LiveTeacher(mlp(5), precision="bf16")


def test_an_unknown_address_fails_in_ask_and_not_later():
    with pytest.raises(AddressError, match=r"hidden\.9"):
        teacher_of(bert(), "hidden.9")


class Mover(LiveTeacher):
    def to(self, device: torch.device | str) -> LiveTeacher:
        self.moves = [*getattr(self, "moves", []), device]
        return super().to(device)


def test_a_teacher_follows_the_batch_to_its_device():
    teacher = Mover(mlp(5))
    teacher.ask(["logits"])
    for _ in range(3):
        teacher(pairs())
    assert teacher.moves == [torch.device("cpu")]
    teacher.to("meta")
    assert {p.device.type for p in teacher.model.parameters()} == {"meta"}
    with pytest.raises(NotImplementedError, match="meta"):
        teacher(pairs())  # it tries to come back, which only a model without data cannot


def test_each_model_of_a_pair_of_batches_gets_its_own():
    x, y = pairs()
    teacher = teacher_of(mlp(5))
    alone = teacher((2 * x, y))["logits"]
    assert torch.equal(teacher({"student": {"input_ids": y}, "teacher": (2 * x, y)})["logits"], alone)


class Foreign(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(5)

    def forward(self, picture: torch.Tensor, scale: float) -> dict[str, Any]:
        return {"answer": [self.net(picture) * scale]}


def test_an_adapter_calls_a_model_of_another_form():
    adapter = Adapter(lambda batch: (batch["image"], 2.0), lambda output: {"logits": output["answer"][0]})
    x, _ = pairs()
    torch.testing.assert_close(teacher_of(Foreign(), adapter=adapter)({"image": x})["logits"], 2 * mlp(5)(x))


def first(batch: Any) -> Any:
    return batch[0]


def test_an_adapter_is_part_of_what_a_teacher_is():
    model = mlp(5)
    made = [None, Adapter(first), Adapter(None, first), Adapter(partial(max, key=len)), Adapter(lambda batch: batch)]
    identities = [str(LiveTeacher(model, adapter=adapter).identity()) for adapter in made]
    assert len(set(identities)) == len(made)
    assert identities[1] == str(LiveTeacher(model, adapter=Adapter(first)).identity())


def test_no_hook_stays_on_the_model_between_calls_or_after_an_exception():
    model = bert()
    teacher = teacher_of(model, "hidden.1", "attention.2", "logits")
    teacher(words())
    assert hooks_on(model) == 0
    with pytest.raises(IndexError):
        teacher(words() | {"input_ids": torch.full((4, 6), 10_000)})
    assert hooks_on(model) == 0
    assert teacher(words())["attention.2"].shape == (4, 2, 6, 6)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))], ids=["deepcopy", "pickle"])
def test_a_copy_works_alone(copied):
    teacher = teacher_of(mlp(5), "1", "logits")
    expected = teacher(pairs())
    other = copied(teacher)
    with torch.no_grad():
        next(teacher.model.parameters()).zero_()
    assert all(torch.equal(other(pairs())[address], expected[address]) for address in expected)
    assert other.model is not teacher.model


def test_a_copy_of_a_teacher_without_addresses_can_be_given_some():
    teacher = copy.deepcopy(LiveTeacher(mlp(5)))
    teacher.ask(["1"])
    assert teacher(pairs())["1"].shape == (8, 5)


def test_bare_models_become_live_teachers_and_sources_stay():
    teacher = LiveTeacher(mlp(5))
    assert as_teacher(teacher) is teacher
    assert isinstance(as_teacher(mlp(5)), LiveTeacher)
    with pytest.raises(ConfigError, match=r"nn\.Module but got str"):
        as_teacher("bert-base-uncased")


def test_its_repr_names_class_size_and_precision():
    assert repr(LiveTeacher(nn.Linear(30, 40))) == "LiveTeacher(Linear, 1,240 parameters, float32)"
    half = LiveTeacher(nn.Linear(3, 2), precision="bfloat16", compile=True)
    assert repr(half) == "LiveTeacher(Linear, 8 parameters, bfloat16, compiled)"


def test_a_teacher_is_no_module_so_that_no_trainer_sees_it():
    holder = nn.Module()
    holder.teacher = LiveTeacher(mlp(5))
    assert not list(holder.parameters())
    assert not holder.state_dict()


@pytest.fixture
def eager_compile(monkeypatch):
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **options: real(model, backend="eager", **options))


def check_compiled(model: nn.Module) -> None:
    expected = teacher_of(copy.deepcopy(model), "hidden.1", "logits")(words())
    teacher = teacher_of(model, "hidden.1", "logits", compile=True)
    for _ in range(2):
        for address, feature in teacher(words()).items():
            torch.testing.assert_close(feature, expected[address])
    teacher.close()
    assert hooks_on(model) == 0
    torch.testing.assert_close(teacher(words())["logits"], expected["logits"])  # a call opens it again
    teacher.close()


def test_a_compiled_teacher_gives_the_same(eager_compile):
    check_compiled(bert())


@pytest.mark.slow
def test_a_teacher_compiled_to_machine_code_gives_the_same():
    check_compiled(bert())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_half_precision_teacher_follows_to_the_gpu():
    model = bert()
    batch = {name: value.cuda() for name, value in words().items()}
    features = teacher_of(model, "logits", precision="float16")(batch)
    assert (features["logits"].dtype, features["logits"].device.type) == (torch.float16, "cuda")
