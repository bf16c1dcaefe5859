"""Students that teach each other: gradients by hand, clipping, copies, resuming."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

import kd_lightning as kd
from kd_lightning.core.errors import ConfigError

from ..toys import Spy, bert, mlp, pairs, ready, trainer, words


def objective(**options: Any) -> kd.Objective:
    return kd.Objective(
        {
            "hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel()),
            "soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(), **options),
        }
    )


def networks(count: int = 2) -> dict[str, nn.Module]:
    return {name: mlp(4 + k, seed=k) for k, name in enumerate("abcd"[:count])}


def module_of(count: int = 2, lr: float = 0.1, **options: Any) -> kd.MutualModule:
    return kd.MutualModule(networks(count), objective(), partial(torch.optim.SGD, lr=lr, momentum=0.9), **options)


def losses_by_hand(students: dict[str, nn.Module], batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Each student's loss; the gradient of a student's loss must be asked for its own weights alone."""
    x, y = batch
    logits = {name: student(x) for name, student in students.items()}
    found = {}
    for name in students:
        own = functional.cross_entropy(logits[name], y)
        others = [other for other in students if other != name]
        for other in others:
            p = logits[other].detach().softmax(-1)
            q = logits[name].log_softmax(-1)
            own = own + functional.kl_div(q, p, reduction="batchmean") / len(others)
        found[name] = own
    return found


@pytest.mark.parametrize("count", [2, 3, 4])
def test_gradients_are_those_by_hand(count):
    module, students = module_of(count), networks(count)
    batch = pairs(seed=3)
    reports = module.compare(batch)
    torch.stack([report.total for report in reports.values()]).sum().backward()
    expected = losses_by_hand(students, batch)
    for name, student in students.items():
        assert float(reports[name].total.detach()) == pytest.approx(float(expected[name].detach()), rel=1e-6)
        gradients = torch.autograd.grad(expected[name], list(student.parameters()), retain_graph=True)
        for p, gradient in zip(module.students[name].parameters(), gradients, strict=True):
            assert torch.allclose(p.grad, gradient, atol=1e-6)


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_one_optimizer_is_one_for_each_also_with_clipping(algorithm, tmp_path):
    module, students = module_of(3, lr=1.0), networks(3)
    batches = [pairs(seed=i) for i in range(4)]
    clip = {"gradient_clip_val": 0.05, "gradient_clip_algorithm": algorithm}
    trainer(tmp_path, max_epochs=1, **clip).fit(module, ready(batches))
    optimizers = {n: torch.optim.SGD(s.parameters(), lr=1.0, momentum=0.9) for n, s in students.items()}
    for batch in batches:
        losses = losses_by_hand(students, batch)
        found = {n: torch.autograd.grad(losses[n], list(s.parameters())) for n, s in students.items()}
        for name, student in students.items():
            for p, gradient in zip(student.parameters(), found[name], strict=True):
                p.grad = gradient.clone()
            if algorithm == "norm":
                nn.utils.clip_grad_norm_(student.parameters(), 0.05)
            else:
                nn.utils.clip_grad_value_(student.parameters(), 0.05)
            optimizers[name].step()
    for name, student in students.items():
        for p, q in zip(module.students[name].parameters(), student.parameters(), strict=True):
            assert torch.allclose(p, q, atol=1e-5)


def test_terms_and_logs_have_the_peers_names(tmp_path):
    module, seen = module_of(3), dict[str, float]()
    spy = Spy(lambda runner, _: seen.update({k: float(v) for k, v in runner.callback_metrics.items()}))
    trainer(tmp_path, max_epochs=1, callbacks=[spy]).fit(module, ready([pairs()]))
    assert list(module.peer("b").objective.named_terms()) == ["hard", "soft_a", "soft_c"]
    assert [term.weight for term in module.peer("b").objective.named_terms().values()] == [1.0, 0.5, 0.5]
    assert {"train/loss", "train/a/loss", "train/a/loss/soft_b", "train/c/weighted/soft_a"} <= seen.keys()
    assert seen["train/loss"] == pytest.approx(sum(seen[f"train/{name}/loss"] for name in "abc"), rel=1e-6)


def test_metrics_are_of_each_student_and_their_mean(tmp_path):
    module = module_of(metrics={"accuracy": MulticlassAccuracy(3, average="micro")})
    batches = [pairs(seed=i) for i in range(2)]
    (found,) = trainer(tmp_path).validate(module, ready(batches), verbose=False)
    for name, student in module.students.items():
        right = sum(float((student(x).argmax(-1) == y).sum()) for x, y in batches)
        assert found[f"val/{name}/accuracy"] == pytest.approx(right / 16)
    assert found["val/accuracy"] == pytest.approx((found["val/a/accuracy"] + found["val/b/accuracy"]) / 2)


def test_features_of_peers_can_be_matched(tmp_path):
    terms = {"hidden": kd.Term(kd.Match("0", "0"), kd.losses.HiddenMSE(), projection="linear")}
    module = kd.MutualModule(networks(), kd.Objective(terms))
    trainer(tmp_path, max_epochs=1).fit(module, ready([pairs()]))
    report = module.compare(pairs())["a"]
    x, _ = pairs()
    target = module.students["b"][0](x)  # type: ignore[index]
    own = module.peer("a").objective.named_terms()["hidden_b"].projection(module.students["a"][0](x))  # type: ignore
    assert float(report.total.detach()) == pytest.approx(float((own - target).square().mean().detach()), rel=1e-5)


def test_match_schemes_are_of_each_peer():
    own = kd.Objective({"hidden": kd.MatchScheme("hidden", kd.losses.HiddenMSE(), projection="linear")})
    module = kd.MutualModule({"a": bert(2), "b": bert(4, 24, seed=1), "c": bert(2, seed=2)}, own)
    terms = module.peer("a").objective.named_terms()
    assert [str(term.match) for term in terms.values()][:2] == ["hidden.1 ← b/hidden.2", "hidden.2 ← b/hidden.4"]
    assert {term.weight for term in terms.values()} == {0.5}
    assert list(terms) == ["hidden_b_1", "hidden_b_2", "hidden_c_1", "hidden_c_2"]
    sum(report.total for report in module.compare(words()).values()).backward()


# -- codistillation --------------------------------------------------------------------------------------------------


def test_copies_teach_as_the_students_were(tmp_path):
    module, states = module_of(every=2), list[dict[str, Any]]()

    def keep(runner: Any, _: Any) -> None:
        member = module.peer("a").teacher.teachers["b"]  # type: ignore[union-attr]
        parts = {"copy": member.model, "own": module.students["b"]}
        states.append({key: copy.deepcopy(part.state_dict()) for key, part in parts.items()})

    begun = copy.deepcopy(module.students["b"].state_dict())
    trainer(tmp_path, max_epochs=1, callbacks=[Spy(keep)]).fit(module, ready([pairs(seed=i) for i in range(5)]))
    expected = [begun, states[1]["own"], states[1]["own"], states[3]["own"], states[3]["own"]]
    for state, wanted in zip(states, expected, strict=True):
        assert all(torch.equal(value, wanted[key]) for key, value in state["copy"].items())


@pytest.mark.parametrize("every", [None, 3])
def test_a_resumed_run_ends_like_one_never_stopped(every, tmp_path):
    batches = [pairs(seed=i) for i in range(4)]

    def run(folder: str, epochs: int, start: Any = None, seed: int = 0) -> kd.MutualModule:
        module = module_of(3, every=every)
        if seed:
            for parameter in module.parameters():
                nn.init.constant_(parameter, 0.1)
        save = ModelCheckpoint(tmp_path / folder, filename="{epoch}", save_top_k=-1)
        options: dict[str, Any] = {"max_epochs": epochs, "enable_checkpointing": True, "callbacks": [save]}
        trainer(tmp_path / folder, **options).fit(module, ready(batches), ckpt_path=start)
        return module

    whole = run("whole", 2)
    run("cut", 1)
    resumed = run("cut", 2, tmp_path / "cut" / "epoch=0.ckpt", seed=1)
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())


def test_each_student_is_exported(tmp_path):
    module = module_of()
    recipe = {"_target_": "torch.nn.Linear", "in_features": 4, "out_features": 3}
    plain = kd.MutualModule({"a": nn.Linear(4, 3), "b": nn.Linear(4, 3)}, objective())
    loaded = kd.load(kd.export(plain.peer("b"), tmp_path / "b", recipe=recipe))
    assert torch.equal(loaded.weight, plain.students["b"].weight)
    assert not any("teacher" in key for key in module.state_dict())


# -- what cannot be --------------------------------------------------------------------------------------------------


def alone() -> kd.Objective:
    return kd.Objective({"hard": objective().declared["hard"]})


def shared() -> dict[str, nn.Module]:
    one = nn.Linear(4, 3)
    return {"a": nn.Sequential(one), "b": nn.Sequential(one)}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: kd.MutualModule({"a": mlp(4)}, objective()), "at least two"),
        (lambda: kd.MutualModule({"a.b": mlp(4), "c": mlp(4)}, objective()), "cannot be named"),
        (lambda: kd.MutualModule(shared(), objective()), "share"),
        (
            lambda: kd.MutualModule(networks(), kd.Objective({"hard": objective().declared["hard"]})),
            "teacher's address",
        ),
        (lambda: module_of(every=0), "at least 1"),
    ],
)
def test_mistakes_are_told(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.mark.parametrize(
    ("students", "objective", "said"),
    [
        ({"a": bert(2), "b": 5}, "right", "`b` to be an nn.Module but got 5"),
        ({"a": bert(2), "b": bert(3)}, None, "objective"),
    ],
)
def test_arguments_that_cannot_be(students, objective, said):
    right = kd.Objective({"soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget())})
    with pytest.raises(ConfigError, match=said):
        kd.MutualModule(students, right if objective == "right" else objective)
