from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

import kd_lightning as kd
from kd_lightning.core.errors import AddressError, MatchError
from kd_lightning.core.types import FeatureInfo

from ..toys import bert, hooks_on, ready, same, trainer, weights, words

SGD = partial(torch.optim.SGD, lr=0.1)
ASKED = ["logits", "hidden.0", "hidden.4", "attention.2"]


def objective() -> kd.Objective:
    return kd.Objective(
        {
            "logits": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(2.0)),
            "hidden": kd.Term(kd.Match("hidden.1", "hidden.4"), kd.losses.HiddenMSE()),
        }
    )


def outputs_of(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    source = kd.LiveTeacher(model)
    source.ask(["logits", "hidden.4"])
    return source(batch)


def fail(model: torch.nn.Module, arguments: Any) -> None:
    raise AssertionError("it ran")


def test_a_model_output_is_read_by_address():
    model, batch = bert(4, attn_implementation="eager").eval(), words()
    with torch.no_grad():
        output = model(**batch, output_hidden_states=True, output_attentions=True)
    teacher, live = kd.BatchTeacher(), kd.LiveTeacher(model)
    teacher.ask(ASKED)
    live.ask(ASKED)
    expected = live(batch)
    for cache in (output, dict(output)):
        found = teacher({**batch, "teacher_cache": cache})
        assert found.keys() == expected.keys()
        for address in ASKED:
            torch.testing.assert_close(found[address], expected[address])
    parts = {"student": batch, "teacher": batch, "teacher_cache": output}
    assert torch.equal(teacher(parts)["hidden.4"], found["hidden.4"])


def test_a_student_learns_the_same_from_batches_with_features(tmp_path):
    model, data = bert(4, seed=1), [words(seed=i) for i in range(3)]
    brought = [{**batch, "teacher_cache": outputs_of(model, batch)} for batch in data]
    mixed = [brought[0], data[1], {**data[2], "teacher_cache": {"logits": brought[2]["teacher_cache"]["logits"]}}]
    unused = bert(4, seed=1)
    unused.register_forward_pre_hook(fail)
    ends = []
    for teacher, batches in (
        (model, data),
        (kd.BatchTeacher(), brought),
        (kd.BatchTeacher(unused), brought),
        (kd.BatchTeacher(model), mixed),
    ):
        student = bert(2)
        module = kd.DistillationModule(student, teacher, objective(), optimizer=SGD)
        trainer(tmp_path, max_epochs=1).fit(module, ready(batches))
        ends.append(weights(student))
    assert all(same(ends[0], end) for end in ends[1:])
    assert not hooks_on(model)


def test_cached_outputs_in_a_batch_are_no_argument_of_a_model():
    class Greedy(torch.nn.Linear):
        def forward(self, **fields: torch.Tensor) -> torch.Tensor:
            assert list(fields) == ["x"]
            return super().forward(fields["x"])

    teacher = kd.LiveTeacher(Greedy(4, 2))
    teacher.ask(["logits"])
    assert teacher({"x": torch.zeros(3, 4), "teacher_cache": {}})["logits"].shape == (3, 2)


def test_its_repr_names_the_other_teacher():
    assert repr(kd.BatchTeacher()) == "BatchTeacher()"
    other = kd.BatchTeacher(torch.nn.Linear(3, 2))
    assert repr(other) == "BatchTeacher(LiveTeacher(Linear, 8 parameters, float32))"


def test_addresses_decide_the_kind_of_what_is_in_batches():
    info = kd.BatchTeacher().info
    assert (info.feature("logits"), info.feature("attention.1")) == (FeatureInfo("classes"), FeatureInfo("attention"))
    assert info.feature("hidden.1") == FeatureInfo()
    assert kd.BatchTeacher(bert(4)).info.feature("hidden.1") == FeatureInfo("tokens", 16)


def test_a_missing_feature_is_named():
    teacher = kd.BatchTeacher()
    teacher.ask(["logits", "hidden.3"])
    with pytest.raises(AddressError, match=r"'teacher_cache' has logits, but 'hidden\.3' is requested"):
        teacher({"teacher_cache": {"logits": torch.zeros(2, 3)}})
    with pytest.raises(AddressError, match="'teacher_cache' is not there, but 'logits'"):
        teacher(words())


def test_without_a_model_layers_and_widths_must_be_given():
    scheme = kd.Objective({"hidden": kd.MatchScheme("hidden", kd.losses.HiddenMSE())})
    with pytest.raises(AddressError, match="is not known from batches"):
        kd.DistillationModule(bert(2), kd.BatchTeacher(), scheme)
    term = kd.Term(kd.Match("hidden.1", "hidden.3"), kd.losses.HiddenMSE(), projection="linear")
    with pytest.raises(MatchError, match="cannot be known before it runs"):
        kd.DistillationModule(bert(2), kd.BatchTeacher(), kd.Objective({"hidden": term}))
