from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import kd_lightning as kd
from kd_lightning.core.errors import AddressError, ConfigError, KDError, MatchError
from kd_lightning.functional.ensembling import confidence, mean_probabilities

from ..toys import bert, mlp, pairs, ready, same, trainer, weights, words

SGD = partial(torch.optim.SGD, lr=0.1)


def two(**options: Any) -> kd.EnsembleTeacher:
    return kd.EnsembleTeacher({"a": mlp(7, seed=1), "b": mlp(9, seed=2)}, **options)


def predictions(ensemble: kd.EnsembleTeacher, x: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return [model(x) for model in ensemble.models()]


def test_the_mean_of_logits_is_the_default():
    ensemble, (x, y) = two(), pairs()
    ensemble.ask(["logits"])
    a, b = predictions(ensemble, x)
    torch.testing.assert_close(ensemble((x, y))["logits"], (a + b) / 2)


def test_fixed_weights_are_shares():
    ensemble, (x, y) = two(weights={"b": 3, "a": 1}), pairs()
    ensemble.ask(["logits"])
    a, b = predictions(ensemble, x)
    torch.testing.assert_close(ensemble((x, y))["logits"], 0.25 * a + 0.75 * b)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_mean_of_probabilities_is_one_at_the_temperature_of_the_loss(temperature):
    ensemble, (x, y) = two(combine="probabilities", temperature=temperature), pairs()
    ensemble.ask(["logits"])
    a, b = (F.softmax(z / temperature, dim=-1) for z in predictions(ensemble, x))
    torch.testing.assert_close(F.softmax(ensemble((x, y))["logits"] / temperature, dim=-1), (a + b) / 2)


def test_a_weight_of_zero_leaves_a_teacher_out_of_probabilities():
    ensemble, (x, y) = two(combine="probabilities", weights={"a": 1, "b": 0}), pairs()
    ensemble.ask(["logits"])
    a, _ = predictions(ensemble, x)
    torch.testing.assert_close(ensemble((x, y))["logits"].softmax(-1), a.softmax(-1))


def test_confident_teachers_count_more_sample_by_sample():
    ensemble, (x, y) = two(weights="confidence"), pairs()
    ensemble.ask(["logits"])
    given = predictions(ensemble, x)
    inverse = [1 / torch.distributions.Categorical(logits=z).entropy() for z in given]
    expected = sum(z * (i / sum(inverse))[:, None] for z, i in zip(given, inverse, strict=True))
    torch.testing.assert_close(ensemble((x, y))["logits"], expected)


def test_certainty_beyond_all_measure_stays_finite():
    logits = torch.tensor([[[1000.0, -1000.0]], [[-1000.0, 1000.0]]])
    from kd_lightning.functional.ensembling import confidence

    torch.testing.assert_close(confidence(logits), torch.full((2, 1, 1), 0.5))


def test_each_teacher_has_matches_of_its_own():
    objective = kd.Objective(
        {
            "logits": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget()),
            "a": kd.MatchScheme("hidden", kd.losses.HiddenMSE(), teacher_feature="a/hidden", projection="linear"),
            "b": kd.Term(kd.Match("attention.2", "b/attention.6"), kd.losses.AttentionMSE()),
        }
    )
    ensemble = kd.EnsembleTeacher({"a": bert(4, 24, seed=1), "b": bert(6, 32, seed=2)})
    module = kd.DistillationModule(bert(2), ensemble, objective)
    assert [str(term.match) for term in module.objective.named_terms().values()][1:3] == [
        "hidden.1 ← a/hidden.2",
        "hidden.2 ← a/hidden.4",
    ]
    batch = words()
    report = module.compare(batch)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    teacher, student = ensemble.teachers["a"].model, module.student.train()
    with torch.no_grad():
        target = teacher(**inputs, output_hidden_states=True).hidden_states[4]
        own = student(**inputs, output_hidden_states=True).hidden_states[2]
        mask = batch["attention_mask"].bool()
        expected = F.mse_loss(module.objective.projections()["a_2"](own)[mask], target[mask])
    torch.testing.assert_close(report.parts["a_2"].detach(), expected)


def test_all_teachers_are_frozen_unchanged_and_in_no_checkpoint(tmp_path):
    ensemble = two()
    before = [weights(model) for model in ensemble.models()]
    objective = kd.Objective({"soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget())})
    module = kd.DistillationModule(mlp(5), ensemble, objective, SGD)
    trainer(tmp_path, max_epochs=1).fit(module, ready([pairs(seed=i) for i in range(4)]))
    assert all(same(old, weights(model)) for old, model in zip(before, ensemble.models(), strict=True))
    assert not any("teacher" in name for name in module.state_dict())


def test_a_teacher_of_which_nothing_is_requested_does_not_run():
    ensemble, ran = two(), []
    ensemble.teachers["b"].model.register_forward_hook(lambda *_: ran.append("b"))
    ensemble.ask(["a/0"])
    assert list(ensemble(pairs())) == ["a/0"]
    assert not ran


def test_each_teacher_may_have_its_own_sub_batch():
    ensemble, (x, y) = two(), pairs()
    ensemble.ask(["a/logits", "b/logits"])
    batch = {"student": (x, y), "teacher": {"a": {"input": x}, "b": {"input": 2 * x}}, "labels": y}
    with torch.no_grad():
        found, expected = ensemble(batch), ensemble.teachers["b"].model(2 * x)
    torch.testing.assert_close(found["b/logits"], expected)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("hidden.2", r"of which teacher\? Only logits are combined; write a/hidden.2 or b/hidden.2"),
        ("c/hidden.2", r"There is no teacher 'c' in this ensemble"),
        ("a/hiden.2", r"There is no 'hiden.2'.*Closest: hidden.2"),
        ("start_logits", r"There is no 'start_logits'"),
    ],
)
def test_a_wrong_address_raises_an_error(address, sentence):
    ensemble = kd.EnsembleTeacher({"a": bert(4), "b": bert(4)})
    objective = kd.Objective({"t": kd.Term(kd.Match("hidden.1", address), nn.MSELoss())})
    with pytest.raises(AddressError, match=sentence):
        kd.DistillationModule(bert(2), ensemble, objective)


def test_a_scheme_must_name_the_teacher():
    objective = kd.Objective({"t": kd.MatchScheme("hidden", nn.MSELoss())})
    with pytest.raises(
        KDError,
        match=r"Layers of which teacher\? Give the match scheme a teacher_feature, such as a/hidden or b/hidden",
    ):
        kd.DistillationModule(bert(2), kd.EnsembleTeacher({"a": bert(4), "b": bert(4)}), objective)


class Few(nn.Module):
    """Gives so many scores; its structure does not tell how many."""

    def __init__(self, scores: int) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : self.scores]


def test_predictions_of_different_shapes_cannot_be_averaged():
    ensemble = kd.EnsembleTeacher({"a": Few(3), "b": Few(4)})
    ensemble.ask(["logits"])
    with pytest.raises(MatchError, match=r"differ in shape \(a \[2, 3\], b \[2, 4\]\)"):
        ensemble((torch.zeros(2, 5), None))


@pytest.mark.parametrize(
    ("teachers", "options", "sentence"),
    [
        ({}, {}, "needs teachers by name"),
        ({"a.b": None}, {}, "letters, digits and underscores"),
        (None, {"weights": {"a": 1.0}}, "one weight for each of a, b but got a"),
        (None, {"weights": {"a": -1.0, "b": 2.0}}, "cannot be negative"),
        (None, {"weights": {"a": 0.0, "b": 0.0}}, "all zero"),
        (None, {"weights": "sure"}, "one per teacher by name, 'confidence' or None but got 'sure'"),
        (None, {"combine": "votes"}, "Unknown way to combine teachers 'votes'"),
        (None, {"temperature": 0.0}, "`temperature` to be positive"),
    ],
)
def test_invalid_arguments_raise_an_error(teachers, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        kd.EnsembleTeacher({"a": mlp(7), "b": mlp(7)} if teachers is None else teachers, **options)


@pytest.mark.parametrize("weights", [[3, 1], (1, 1), "confidnce", 2])
def test_weights_without_names_raise_an_error(weights):
    with pytest.raises(KDError, match="one per teacher by name, 'confidence' or None"):
        kd.EnsembleTeacher({"a": nn.Linear(2, 3), "b": nn.Linear(2, 3)}, weights=weights)


def test_teachers_of_different_widths_are_known_before_the_first_batch():
    ensemble = kd.EnsembleTeacher({"a": bert(1, labels=3), "b": bert(1, labels=4)})
    with pytest.raises(KDError, match=r"'logits' differ in width \(a 3, b 4\)"):
        ensemble.ask(["logits"])


def test_its_repr_names_the_teachers_and_how_they_are_combined():
    teachers = {"a": nn.Linear(2, 3), "b": nn.Linear(2, 3)}
    assert repr(kd.EnsembleTeacher(teachers)) == "EnsembleTeacher(a, b, combine='logits')"
    weighted = kd.EnsembleTeacher(teachers, weights={"a": 3, "b": 1}, combine="probabilities")
    assert repr(weighted) == "EnsembleTeacher(a, b, combine='probabilities', weights=[0.75, 0.25])"


def test_probabilities_of_several_labels_are_means_of_sigmoids():
    a, b = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    weights = torch.tensor([0.25, 0.75], dtype=torch.float64)
    joint = mean_probabilities(torch.stack([a, b]), weights, temperature=2.0, multilabel=True)
    expected = 0.25 * torch.sigmoid(a / 2) + 0.75 * torch.sigmoid(b / 2)
    torch.testing.assert_close(torch.sigmoid(joint / 2), expected)


def test_confidence_over_several_labels_sums_the_entropies_of_single_decisions():
    logits = torch.tensor([[[9.0, 9.0, 9.0]], [[0.1, -0.1, 0.0]]], dtype=torch.float64)
    p = torch.sigmoid(logits)
    entropy = -(p * p.log() + (1 - p) * (1 - p).log()).sum(-1, keepdim=True)
    torch.testing.assert_close(confidence(logits, multilabel=True), (1 / entropy) / (1 / entropy).sum(0))
