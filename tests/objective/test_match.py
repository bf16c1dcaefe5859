from __future__ import annotations

import copy
import pickle

import pytest
from omegaconf import OmegaConf

from kd_lightning.core.errors import MatchError
from kd_lightning.objective.match import Match


def test_one_address_and_several_read_alike():
    assert Match("logits", "labels").student_addresses == ("logits",)
    assert Match(["a", "b"], ("c",)).student_addresses == ("a", "b")
    assert Match(["a", "b"], ("c",)).teacher_addresses == ("c",)
    assert Match("loss").teacher_addresses == ()


def test_lists_of_a_configuration_become_tuples():
    given = OmegaConf.create({"student": ["hidden.0", "hidden.1"]})
    match = Match(given.student, "hidden.3")
    assert type(match.student) is tuple
    assert hash(match) == hash(Match(("hidden.0", "hidden.1"), "hidden.3"))


@pytest.mark.parametrize("student", ["", [], [""], [1], None, ["a", None]])
def test_a_match_without_proper_addresses_is_an_error(student):
    with pytest.raises(MatchError, match=r"hidden\.1"):
        Match(student, "logits")


@pytest.mark.parametrize("teacher", [[], "", [""], [3]])
def test_an_empty_teacher_side_is_refused_and_not_taken_for_none(teacher):
    with pytest.raises(MatchError, match=r"hidden\.1"):
        Match("logits", teacher)


def test_a_match_is_a_value():
    match = Match(["a", "b"], "c")
    assert copy.deepcopy(match) == pickle.loads(pickle.dumps(match)) == match
    assert str(match) == "a+b ← c"
    assert str(Match("loss")) == "loss"


def test_a_match_of_many_layers_is_written_short():
    match = Match([f"hidden.{s}" for s in (1, 2)], [f"hidden.{t}" for t in range(1, 7)])
    assert str(match) == "hidden.1+hidden.2 ← hidden.1…hidden.6"


def test_a_match_is_shown_as_it_is_written():
    assert repr(Match(["a", "b"], "c")) == "Match(student=('a', 'b'), teacher='c')"
