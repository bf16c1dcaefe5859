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


def answer(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    source = kd.LiveTeacher(model)
    source.ask(["logits", "hidden.4"])
    return source(batch)


def asleep(model: torch.nn.Module, arguments: Any) -> None:
    raise AssertionError("it was asked")


def test_a_models_output_is_read_by_address():
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


def test_a_student_learns_the_same_from_batches_that_bring_features(tmp_path):
    model, data = bert(4, seed=1), [words(seed=i) for i in range(3)]
    brought = [{**batch, "teacher_cache": answer(model, batch)} for batch in data]
    mixed = [brought[0], data[1], {**data[2], "teacher_cache": {"logits": brought[2]["teacher_cache"]["logits"]}}]
    sleeping = bert(4, seed=1)
    sleeping.register_forward_pre_hook(asleep)
    ends = []
    for teacher, batches in (
        (model, data),
        (kd.BatchTeacher(), brought),
        (kd.BatchTeacher(sleeping), brought),
        (kd.BatchTeacher(model), mixed),
    ):
        student = bert(2)
        module = kd.DistillationModule(student, teacher, objective(), optimizer=SGD)
        trainer(tmp_path, max_epochs=1).fit(module, ready(batches))
        ends.append(weights(student))
    assert all(same(ends[0], end) for end in ends[1:])
    assert not hooks_on(model)


def test_no_model_eats_what_a_teacher_said():
    class Greedy(torch.nn.Linear):
        def forward(self, **fields: torch.Tensor) -> torch.Tensor:
            assert list(fields) == ["x"]
            return super().forward(fields["x"])

    teacher = kd.LiveTeacher(Greedy(4, 2))
    teacher.ask(["logits"])
    assert teacher({"x": torch.zeros(3, 4), "teacher_cache": {}})["logits"].shape == (3, 2)


def test_addresses_tell_what_batches_may_bring():
    info = kd.BatchTeacher().info
    assert (info.feature("logits"), info.feature("attention.1")) == (FeatureInfo("classes"), FeatureInfo("attention"))
    assert info.feature("hidden.1") == FeatureInfo()
    assert kd.BatchTeacher(bert(4)).info.feature("hidden.1") == FeatureInfo("tokens", 16)


def test_what_is_missing_is_named():
    teacher = kd.BatchTeacher()
    teacher.ask(["logits", "hidden.3"])
    with pytest.raises(AddressError, match=r"'teacher_cache' has logits, but 'hidden\.3' is asked for"):
        teacher({"teacher_cache": {"logits": torch.zeros(2, 3)}})
    with pytest.raises(AddressError, match="'teacher_cache' is not there, but 'logits'"):
        teacher(words())


def test_without_a_model_layers_are_named_and_widths_given():
    scheme = kd.Objective({"hidden": kd.MatchScheme("hidden", kd.losses.HiddenMSE())})
    with pytest.raises(AddressError, match="cannot be told from batches"):
        kd.DistillationModule(bert(2), kd.BatchTeacher(), scheme)
    term = kd.Term(kd.Match("hidden.1", "hidden.3"), kd.losses.HiddenMSE(), projection="linear")
    with pytest.raises(MatchError, match="cannot be known before it runs"):
        kd.DistillationModule(bert(2), kd.BatchTeacher(), kd.Objective({"hidden": term}))
