from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import kd_lightning as kd
from kd_lightning import schedules
from kd_lightning.core.errors import ConfigError, MatchError
from kd_lightning.features import model_info

from ..toys import bert, mlp, pairs

NUMBER = st.floats(-100, 100).filter(lambda x: x == 0 or abs(x) > 1e-3)


def constant(number: float) -> nn.Module:
    return Constant(number)


class Constant(nn.Module):
    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def forward(self, student: Tensor) -> Tensor:
        return student.sum() * 0 + self.number


def term(number: float = 1.0, weight: float = 1.0, schedule: object = None) -> kd.Term:
    return kd.Term(kd.Match("logits"), constant(number), weight, schedule)


def report(terms: dict[str, kd.Term], progress: float = 0.0) -> kd.LossReport:
    return kd.Objective(terms)({"logits": torch.zeros(1)}, {}, pairs(), progress)


@settings(deadline=None)
@given(st.lists(st.tuples(NUMBER, NUMBER), min_size=1, max_size=5))
def test_the_total_is_the_sum_of_weight_times_part(drawn):
    made = report({f"t{i}": term(part, weight) for i, (part, weight) in enumerate(drawn)})
    assert float(made.total) == pytest.approx(sum(part * weight for part, weight in drawn), rel=1e-4, abs=1e-2)
    assert [float(part) for part in made.parts.values()] == pytest.approx([part for part, _ in drawn], rel=1e-6)
    assert float(sum(made.weighted.values())) == pytest.approx(float(made.total), rel=1e-4, abs=1e-2)


@settings(deadline=None)
@given(NUMBER, NUMBER, NUMBER)
def test_the_total_is_linear_in_each_weight(weight, other, factor):
    def total(first: float) -> float:
        return float(report({"a": term(3.0, first), "b": term(2.0, other)}).total)

    assert total(weight * factor) - total(0.0) == pytest.approx(
        factor * (total(weight) - total(0.0)), rel=1e-3, abs=0.1
    )


def test_a_schedule_multiplies_the_base_weight():
    made = report({"a": term(10.0, 0.5, schedules.LinearDecay()), "b": term(1.0, 2.0)}, progress=0.25)
    assert made.weights == {"a": 0.375, "b": 2.0}
    assert float(made.total) == 5.75
    assert {name: float(part) for name, part in made.parts.items()} == {"a": 10.0, "b": 1.0}


def test_any_function_of_progress_is_a_schedule():
    assert report({"a": term(1.0, 3.0, lambda x: x**2)}, progress=0.5).weights == {"a": 0.75}


def test_logs_have_total_parts_and_weighted_parts_without_gradient():
    student = torch.ones(2, requires_grad=True)
    terms = {"a": kd.Term(kd.Match("logits"), torch.sum, 0.5), "b": kd.Term(kd.Match("logits"), torch.mean)}
    logs = kd.Objective(terms)({"logits": student}, {}, pairs()).logs("train")
    assert {name: float(value) for name, value in logs.items()} == {
        "train/loss": 2.0,
        "train/loss/a": 2.0,
        "train/loss/b": 1.0,
        "train/weighted/a": 1.0,
        "train/weighted/b": 1.0,
    }
    assert not any(value.requires_grad for value in logs.values())


def test_parts_that_are_not_finite_are_named():
    made = report({"a": term(), "b": term(float("nan")), "c": term(float("inf"))})
    assert made.non_finite() == ["b", "c"]


# -- names


@pytest.mark.parametrize("name", ["a.b", "", "a b", "ä", "a-b", "a/b", 3, None])
def test_a_name_is_letters_digits_and_underscores(name):
    with pytest.raises(ConfigError, match="letters, digits and underscores"):
        kd.Objective({name: term()})


@pytest.mark.parametrize("name", ["keys", "items", "forward", "type", "pop", "training"])
def test_a_name_that_torch_keeps_for_itself_is_an_error(name):
    with pytest.raises(ConfigError, match=f"A term cannot be named '{name}'"):
        kd.Objective({name: term()})


def test_what_is_no_term_is_named():
    with pytest.raises(ConfigError, match="term 'a' to be a Term or a MatchScheme but got MSELoss"):
        kd.Objective({"a": nn.MSELoss()})
    with pytest.raises(ConfigError, match="at least one term"):
        kd.Objective({})


@pytest.mark.parametrize("order", [("hidden", "hidden_1"), ("hidden_1", "hidden")])
def test_a_term_and_a_schemes_term_of_one_name_are_an_error(order):
    made = {
        "hidden": kd.MatchScheme("hidden", nn.MSELoss()),
        "hidden_1": kd.Term(kd.Match("loss"), kd.losses.Identity()),
    }
    with pytest.raises(ConfigError, match=r"two terms.*'hidden_1'"):
        kd.Objective({name: made[name] for name in order}).bind(model_info(bert(2)), model_info(bert(4)))


# -- binding


def objective() -> kd.Objective:
    return kd.Objective(
        {
            "hard": kd.Term(kd.Match("logits", "labels"), nn.CrossEntropyLoss()),
            "hidden": kd.MatchScheme("hidden", kd.losses.HiddenMSE(), embeddings=True, projection="linear"),
            "logits": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget()),
        }
    )


def test_schemes_become_terms_in_their_place():
    made = objective().bind(model_info(bert(2, 16)), model_info(bert(4, 24)))
    assert list(made.named_terms()) == ["hard", "hidden_0", "hidden_1", "hidden_2", "logits"]
    assert made.student_addresses == ("logits", "hidden.0", "hidden.1", "hidden.2")
    assert made.teacher_addresses == ("hidden.0", "hidden.2", "hidden.4", "logits")
    assert list(made.projections()) == ["hidden_0", "hidden_1", "hidden_2"]
    assert {name for name, _ in made.named_parameters()} == {
        f"terms.hidden_{k}.projection.{kind}" for k in range(3) for kind in ("weight", "bias")
    }


def test_each_layer_has_a_projection_and_a_loss_of_its_own():
    terms = objective().bind(model_info(bert(2, 16)), model_info(bert(4, 24))).named_terms()
    one, other = terms["hidden_1"], terms["hidden_2"]
    assert one.projection is not other.projection
    assert one.loss is not other.loss


def test_an_objective_is_bound_to_another_student_as_if_it_were_the_first():
    first = objective().bind(model_info(bert(2, 16)), model_info(bert(4, 24)))
    made = first.bind(model_info(bert(3, 8)), model_info(bert(3, 12)))
    assert made.named_terms()["hidden_3"].projection.weight.shape == (12, 8)
    assert made.teacher_addresses == ("hidden.0", "hidden.1", "hidden.2", "hidden.3", "logits")


def test_it_serves_the_first_as_before():
    first = objective().bind(model_info(bert(2, 16)), model_info(bert(4, 24)))
    before = first.projections()
    first.bind(model_info(bert(3, 8)), model_info(bert(3, 12)))
    assert first.projections() == before
    assert "hidden_3" not in first.named_terms()


def test_a_scheme_without_a_teacher_is_a_sentence():
    with pytest.raises(MatchError, match="'hidden' needs a teacher"):
        objective().bind(model_info(bert(2)), None)


def test_an_objective_is_shown_term_by_term_and_its_schemes_before_they_are_terms():
    made = objective()
    shown = [
        "Objective(",
        "  hard: Term(logits ← labels, CrossEntropyLoss(), weight=1)",
        "  hidden: MatchScheme(hidden, HiddenMSE(), embeddings=True, projection='linear')",
        "  logits: Term(logits ← logits, SoftTarget(temperature=1.0), weight=1)",
        ")",
    ]
    assert repr(made).splitlines() == shown
    made.bind(model_info(bert(2, 16)), model_info(bert(4, 24)))
    linear = "projection=Linear(in_features=16, out_features=24, bias=True)"
    terms = [
        f"  hidden_{s}: Term(hidden.{s} ← hidden.{t}, HiddenMSE(), weight=1, {linear})"
        for s, t in ((0, 0), (1, 2), (2, 4))
    ]
    assert repr(made).splitlines() == [*shown[:2], *terms, *shown[3:]]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
def test_a_bound_objective_can_be_copied(copied):
    made = objective().bind(model_info(bert(2, 16)), model_info(bert(4, 24)))
    other = copied(made)
    assert other.state_dict().keys() == made.state_dict().keys()
    with torch.no_grad():
        other.named_terms()["hidden_1"].projection.weight.zero_()
    assert made.named_terms()["hidden_1"].projection.weight.abs().sum() > 0


def test_a_parameter_of_a_loss_is_trained_and_saved():
    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
            return (self.scale * student - teacher).square().mean()

    made = kd.Objective({"a": kd.Term(kd.Match("logits", "logits"), Learned())}).bind(
        model_info(mlp(5)), model_info(mlp(7))
    )
    assert list(made.state_dict()) == ["terms.a.loss.scale"]


def test_a_term_that_is_off_is_no_term():
    hard = kd.Term(kd.Match("logits", "labels"), nn.CrossEntropyLoss())
    assert list(kd.Objective({"hard": hard, "soft": None}).declared) == ["hard"]
    with pytest.raises(ConfigError, match="at least one term"):
        kd.Objective({"soft": None})
