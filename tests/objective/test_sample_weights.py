"""Row weights: against loops over rows, and as the mean over all ranks' weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kd_lightning as kd
from kd_lightning import sample_weights
from kd_lightning.core.errors import ConfigError, KDError

from ..toys import bert, words

CLASSES = 3
RULES: dict[str, Any] = {
    "wsld": sample_weights.WSLD,
    "confidence": sample_weights.Confidence,
    "confidence_hard": lambda **o: sample_weights.Confidence(hard=True, **o),
    "label": lambda **o: sample_weights.Confidence(of="label", **o),
    "entropy": sample_weights.Entropy,
    "entropy_hard": lambda **o: sample_weights.Entropy(hard=True, **o),
    "gap": lambda **o: sample_weights.Gap(hard=False, **o),
    "gap_hard": lambda **o: sample_weights.Gap(gamma=2.0, **o),
}


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


def by_hand(rule: str, student: np.ndarray, teacher: np.ndarray, label: int) -> float:
    """The weight of one row, or of one token."""
    p, q = softmax(student), softmax(teacher)
    entropy = -sum(x * math.log(x) for x in q) / math.log(len(q))
    gap = sum(x * math.log(x / y) for x, y in zip(q, p, strict=True))
    return {
        "wsld": 1 - math.exp(math.log(p[label]) / (-math.log(q[label]) + 1e-7)),
        "confidence": max(q),
        "confidence_hard": 1 - max(q),
        "label": q[label],
        "entropy": 1 - entropy,
        "entropy_hard": entropy,
        "gap": math.exp(-gap),
        "gap_hard": gap**2,
    }[rule]


def drawn(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(*shape, CLASSES, generator=random, dtype=torch.float64) * 2 for _ in range(2))
    return one, other, torch.randint(CLASSES, shape, generator=random)


def term(loss: nn.Module, rule: Any, teacher: str = "logits") -> kd.Term:
    return kd.Term(kd.Match("logits", teacher), loss, sample_weight=rule)


@pytest.mark.parametrize("rule", RULES)
def test_weights_of_rows_are_those_of_a_loop(rule):
    student, teacher, labels = drawn(5)
    found = RULES[rule]()(student, teacher, labels)
    expected = [by_hand(rule, student[i].numpy(), teacher[i].numpy(), int(labels[i])) for i in range(5)]
    assert found.tolist() == pytest.approx(expected, rel=1e-9)
    assert not found.requires_grad


@pytest.mark.parametrize("rule", RULES)
def test_weights_of_tagged_rows_are_means_over_real_tokens(rule):
    student, teacher, labels = drawn(3, 4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    clean = RULES[rule]()(student, teacher, labels, mask)
    for row, count in enumerate((4, 2, 1)):
        each = [
            by_hand(rule, *(x[row, k].numpy() for x in (student, teacher)), int(labels[row, k])) for k in range(count)
        ]
        assert float(clean[row]) == pytest.approx(sum(each) / count, rel=1e-9)
    garbage = student.masked_fill(mask[..., None] == 0, float("nan"))
    assert torch.equal(RULES[rule]()(garbage, teacher, labels, mask), clean)


LOSSES = {
    "soft": (kd.losses.SoftTarget(temperature=2.0), "logits"),
    "ce": (kd.losses.SoftCrossEntropy(temperature=2.0), "logits"),
    "mse": (kd.losses.LogitMSE(), "logits"),
    "hard": (kd.losses.HardLabel(), "labels"),
}


def one_row(loss: nn.Module, *row: Tensor, **given: Tensor) -> float:
    return float(loss(*(x[None] for x in row), **{k: v[None] for k, v in given.items()}))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("normalize", [True, False])
def test_a_weighted_loss_is_that_of_a_loop_over_rows(name, normalize):
    loss, side = LOSSES[name]
    student, teacher, labels = drawn(6)
    rule = sample_weights.Entropy(hard=True, normalize=normalize)
    own = student.clone().requires_grad_()
    value, count = term(loss, rule, side)({"logits": own}, {"logits": teacher}, {"labels": labels})
    weights = [by_hand("entropy_hard", *(x[i].numpy() for x in (student, teacher)), 0) for i in range(6)]
    values = [one_row(loss, student[i], teacher[i] if side == "logits" else labels[i]) for i in range(6)]
    total = sum(weights) if normalize else 6
    assert float(value.detach()) == pytest.approx(
        sum(w * v for w, v in zip(weights, values, strict=True)) / total, rel=1e-9
    )
    assert float(count) == pytest.approx(total, rel=1e-9)
    (gradient,) = torch.autograd.grad(value, own)
    assert gradient.abs().sum() > 0


def test_tokens_of_a_row_share_its_weight():
    student, teacher, labels = drawn(3, 4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    rule, loss = sample_weights.Confidence(), kd.losses.SoftTarget(temperature=2.0)
    batch = {"attention_mask": mask, "labels": labels}
    value, count = term(loss, rule)({"logits": student}, {"logits": teacher}, batch)
    weights = rule(student, teacher, labels, mask)
    top = bottom = 0.0
    for i in range(3):
        for k in range(int(mask[i].sum())):
            top += float(weights[i]) * one_row(loss, student[i, k], teacher[i, k])
            bottom += float(weights[i])
    assert float(value) == pytest.approx(top / bottom, rel=1e-9)
    assert float(count) == pytest.approx(bottom, rel=1e-9)


def test_published_weights_on_soft_targets_are_the_loss_wsld():
    student, teacher, labels = drawn(7)
    batch = {"labels": labels}
    own = [student.clone().requires_grad_() for _ in range(2)]
    weighted = term(kd.losses.SoftTarget(temperature=4.0), sample_weights.WSLD())
    whole = kd.Term(kd.Match("logits", "logits"), kd.losses.WSLD(temperature=4.0))
    values = [t({"logits": x}, {"logits": teacher}, batch)[0] for t, x in zip((weighted, whole), own, strict=True)]
    assert float(values[0].detach()) == pytest.approx(float(values[1].detach()), rel=1e-12)
    gradients = [torch.autograd.grad(v, x)[0] for v, x in zip(values, own, strict=True)]
    assert torch.allclose(*gradients, rtol=1e-10, atol=1e-14)


def test_equal_weights_change_nothing():
    student, teacher, labels = drawn(4)
    for loss, side in LOSSES.values():
        plain = kd.Term(kd.Match("logits", side), loss)
        features = {"logits": student}, {"logits": teacher}, {"labels": labels}
        expected, _ = plain(*features)
        found, _ = term(loss, sample_weights.Gap(gamma=0.0), side)(*features)
        assert float(found) == pytest.approx(float(expected), rel=1e-12)


def test_shares_of_two_devices_are_the_whole():
    """Values that are weighted by their counts are those of the joint batch: what makes means exact over ranks."""
    student, teacher, labels = drawn(6)
    made = term(kd.losses.SoftTarget(temperature=2.0), sample_weights.Confidence())
    whole, _ = made({"logits": student}, {"logits": teacher}, {"labels": labels})
    parts = [
        made({"logits": student[cut]}, {"logits": teacher[cut]}, {"labels": labels[cut]})
        for cut in (slice(0, 2), slice(2, 6))
    ]
    joined = sum(float(value) * float(count) for value, count in parts) / sum(float(count) for _, count in parts)
    assert joined == pytest.approx(float(whole), rel=1e-12)


def test_hidden_states_are_weighted_by_logits():
    student, teacher, batch = bert(2), bert(4, seed=1), words()
    hidden = kd.Term(kd.Match("hidden.1", "hidden.2"), kd.losses.HiddenMSE(), sample_weight=sample_weights.Entropy())
    module = kd.DistillationModule(student, teacher, kd.Objective({"hidden": hidden}))
    assert module.objective.student_addresses == ("hidden.1", "logits")
    assert module.objective.teacher_addresses == ("hidden.2", "logits")
    report = module.compare(batch)
    report.total.backward()
    features, target = module(batch), module.teacher(batch)
    weights = sample_weights.Entropy()(features["logits"], target["logits"])
    top = bottom = 0.0
    for i, weight in enumerate(weights.tolist()):
        real = batch["attention_mask"][i].bool()
        gap = (features["hidden.1"][i] - target["hidden.2"][i])[real].square().mean(-1)
        top, bottom = top + weight * float(gap.sum()), bottom + weight * int(real.sum())
    assert float(report.total.detach()) == pytest.approx(top / bottom, rel=1e-5)


@pytest.mark.parametrize("loss", [kd.losses.RKDDistance(), kd.losses.DIST(), nn.MSELoss(), lambda s, t: s.sum()])
def test_losses_that_are_no_means_over_rows_are_refused(loss):
    with pytest.raises(ConfigError, match="no mean over rows"):
        term(loss, sample_weights.Entropy())


def test_rules_on_classes_are_refused_where_there_are_none():
    with pytest.raises(ConfigError, match="several labels"):
        term(kd.losses.SoftLabels(), sample_weights.Entropy())
    with pytest.raises(KDError, match="use Gap"):
        sample_weights.Entropy()(torch.zeros(2, 1), torch.zeros(2, 1))
    with pytest.raises(KDError, match="kind='values'"):
        sample_weights.Gap()(torch.zeros(2, 1), torch.zeros(2, 1))
    assert sample_weights.Gap(kind="values")(torch.zeros(2, 1), torch.tensor([[2.0], [0.0]])).tolist() == [4.0, 0.0]
    several = sample_weights.Gap(kind="labels")(torch.zeros(1, 2), torch.tensor([[2.0, -2.0]]))
    p = 1 / (1 + math.exp(-2.0))
    assert float(several) == pytest.approx(p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)), rel=1e-5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: sample_weights.Confidence(of="mean"), "'of'|of"),
        (lambda: sample_weights.Gap(gamma=-1.0), "gamma"),
        (lambda: sample_weights.Gap(kind="tokens"), "kind"),
        (lambda: term(kd.losses.SoftTarget(), "entropy"), "kd_lightning.sample_weights"),
    ],
)
def test_arguments_that_cannot_be(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


def test_a_teacher_is_needed():
    hard = term(kd.losses.HardLabel(), sample_weights.Entropy(), "labels")
    with pytest.raises(KDError, match="sample_weight needs a teacher"):
        kd.DistillationModule(bert(2), None, kd.Objective({"hard": hard}))
