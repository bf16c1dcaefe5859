from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F

import kd_lightning as kd
from kd_lightning.core.errors import AddressError, ConfigError, KDError, NonFiniteLossError

from ..toys import bert, hooks_on, mlp, pairs, ready, same, trainer, weights, words
from .modules_of_users import ByHand, Classifier, Tuner, Twice

PAIRS = [pairs(seed=i) for i in range(4)]


def objective(**options: Any) -> kd.Objective:
    torch.manual_seed(5)
    return kd.Objective(
        {
            "soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=3.0), weight=0.7),
            "hidden": kd.Term(kd.Match("0", "0"), nn.MSELoss(), 0.3, projection="linear", **options),
        }
    )


def guest(**options: Any) -> kd.DistillationCallback:
    return kd.DistillationCallback(mlp(7, seed=1), objective(), **options)


def fit(host: pl.LightningModule, callback: Any, folder: Any, batches: Any = None, **options: Any) -> pl.Trainer:
    runner = trainer(folder, **{"max_epochs": 1, "callbacks": [callback]} | options)
    torch.manual_seed(7)
    runner.fit(host, ready(batches or PAIRS))
    return runner


def by_hand(student: nn.Module, teacher: nn.Module, projection: nn.Linear, group: int = 1, task: float = 1.0) -> None:
    """Train as the callback should, with a loop and formulas written out; batches are averaged over a group."""
    parameters = [*student.parameters(), *projection.parameters()]
    for start in range(0, len(PAIRS), group):
        total = torch.zeros(())
        for x, y in PAIRS[start : start + group]:
            with torch.no_grad():
                wide = x @ teacher[0].weight.T + teacher[0].bias
                target = torch.tanh(wide) @ teacher[2].weight.T + teacher[2].bias
            narrow = x @ student[0].weight.T + student[0].bias
            scores = torch.tanh(narrow) @ student[2].weight.T + student[2].bias
            hard = -torch.log_softmax(scores, -1)[torch.arange(len(y)), y].mean()
            p, q = torch.softmax(target / 3, -1), torch.softmax(scores / 3, -1)
            soft = 9 * (p * (p.log() - q.log())).sum() / len(x)
            hidden = ((narrow @ projection.weight.T + projection.bias - wide) ** 2).mean()
            total = total + (task * hard + 0.7 * soft + 0.3 * hidden) / group
        gradients = torch.autograd.grad(total, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= 0.1 * gradient


@pytest.mark.parametrize(("group", "task"), [(1, 1.0), (2, 1.0), (1, 0.0), (1, 0.5)])
def test_a_plain_classifier_learns_what_a_loop_by_hand_does(tmp_path, group, task):
    host, callback = Classifier(), guest(task_weight=task)
    student, teacher = copy.deepcopy(host.model), mlp(7, seed=1)
    torch.manual_seed(7)
    projection = nn.Linear(5, 7)
    fit(host, callback, tmp_path, accumulate_grad_batches=group)
    by_hand(student, teacher, projection, group, task)
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(host.model.get_parameter(name), parameter)
    torch.testing.assert_close(callback.objective.projections()["hidden"].weight, projection.weight)


def test_everything_is_logged_and_the_users_own_logs_stay(tmp_path):
    runner = fit(Classifier(), guest(task_weight=2.0), tmp_path, limit_train_batches=1)
    logged = runner.callback_metrics
    terms = ("task", "soft", "hidden")
    assert set(logged) >= {"train/loss", "distillation/loss", *(f"distillation/weighted/{t}" for t in terms)}
    torch.testing.assert_close(logged["distillation/loss/task"], logged["train/loss"])
    torch.testing.assert_close(logged["distillation/weighted/task"], 2 * logged["train/loss"])
    torch.testing.assert_close(logged["distillation/loss"], sum(logged[f"distillation/weighted/{t}"] for t in terms))


def bert_guest(**options: Any) -> kd.DistillationCallback:
    terms = {
        "logits": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=2.0)),
        "hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel(), schedule=kd.schedules.LinearDecay()),
        "hidden": kd.MatchScheme("hidden", kd.losses.HiddenMSE(), projection="linear"),
        "attention": kd.Term(kd.Match("attention.2", "attention.4"), kd.losses.AttentionMSE()),
    }
    return kd.DistillationCallback(bert(4, 24, seed=1), kd.Objective(terms), student="parts.encoder", **options)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_transformers_model_in_a_dict_with_a_scheduler(tmp_path, precision):
    host, callback = Tuner(), bert_guest()
    before, teacher = weights(host), weights(callback._given)
    batches = [words(seed=i) for i in range(4)]
    runner = fit(host, callback, tmp_path, batches, precision=precision, gradient_clip_val=1.0)
    assert not same(before, weights(host))
    assert same(teacher, weights(callback._given))
    assert runner.callback_metrics["distillation/loss/attention"] > 0
    trained = {id(p) for group in runner.optimizers[0].param_groups for p in group["params"]}
    assert {id(p) for p in callback.objective.parameters()} <= trained
    assert {id(p) for p in callback._given.parameters()}.isdisjoint(trained)


def test_nothing_is_left_behind(tmp_path):
    host, callback = Classifier(), guest()
    fit(host, callback, tmp_path)
    assert not {"training_step", "configure_optimizers"} & host.__dict__.keys()
    assert hooks_on(host) == 0
    assert hooks_on(callback._given) == 0
    assert list(host.state_dict()) == list(Classifier().state_dict())


def test_nothing_is_left_behind_by_an_exception(tmp_path):
    class Fails(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            super().training_step(batch, batch_idx)
            raise ZeroDivisionError

    host = Fails()
    with pytest.raises(ZeroDivisionError):
        fit(host, guest(), tmp_path)
    assert not {"training_step", "configure_optimizers"} & host.__dict__.keys()
    assert hooks_on(host) == 0
    assert "kd_objective" not in host._modules


def test_a_step_that_is_skipped_is_skipped(tmp_path):
    class Skips(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
            return None

    host = Skips()
    before = weights(host)
    fit(host, guest(), tmp_path)
    assert same(before, weights(host))


# -- checkpoints


def checkpointed(folder: Any) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=2, save_top_k=-1)


def test_the_users_module_alone_loads_the_checkpoint_strictly(tmp_path):
    host = Classifier()
    fit(host, guest(), tmp_path, enable_checkpointing=True, callbacks=[guest(), checkpointed(tmp_path)])
    path = tmp_path / "step=4.ckpt"
    assert not any("kd_objective" in key for key in torch.load(path, weights_only=True)["state_dict"])
    assert same(weights(Classifier.load_from_checkpoint(path)), weights(host))


def test_a_run_that_is_resumed_ends_bit_equal(tmp_path):
    def run(folder: Any, **resumed: Any) -> tuple[Any, Any]:
        host, callback = Tuner(), bert_guest()
        noise = kd.callbacks.StepSeed(3)
        runner = trainer(
            folder, max_epochs=2, callbacks=[noise, callback, checkpointed(folder)], enable_checkpointing=True
        )
        runner.fit(host, ready([words(seed=i) for i in range(4)]), **resumed)
        return weights(host), weights(callback.objective)

    torch.manual_seed(1)
    whole = run(tmp_path / "whole")
    torch.manual_seed(2)  # other projections, which the checkpoint must replace
    again = run(tmp_path / "again", ckpt_path=tmp_path / "whole" / "step=4.ckpt")
    assert same(whole[0], again[0])
    assert same(whole[1], again[1])


def test_a_second_fit_goes_on_with_the_same_projections(tmp_path):
    host, callback = Classifier(), guest()
    fit(host, callback, tmp_path)
    trained = weights(callback.objective)
    fit(host, callback, tmp_path, limit_train_batches=0)
    assert same(trained, weights(callback.objective))


# -- what does not go


@pytest.mark.parametrize(
    ("host", "options", "sentence"),
    [
        (Twice(), {}, r"ran the student \(Sequential\) 3 times.*exactly one forward pass"),
        (ByHand(), {}, r"ByHand optimizes by hand"),
        (Classifier(), {"student": "modle"}, r"Classifier has no model at student='modle'. Closest: model"),
        (Classifier(), {"student": "configure"}, r"no model at student='configure'"),
    ],
)
def test_what_does_not_go_is_one_sentence(tmp_path, host, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        fit(host, guest(**options), tmp_path)
    assert "kd_objective" not in host._modules
    assert hooks_on(host) == 0


def test_a_part_that_runs_once_may_be_the_student_of_a_step_that_runs_others_too(tmp_path):
    class TwoNets(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.other = mlp(5, seed=3)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            return F.cross_entropy(self.model(x) + self.other(x) + self.other(-x), y)

    fit(TwoNets(), guest(), tmp_path)


def test_two_guests_at_once_are_refused(tmp_path):
    class Another(kd.DistillationCallback):
        pass

    with pytest.raises(ConfigError, match="has a DistillationCallback already"):
        fit(Classifier(), guest(), tmp_path, callbacks=[guest(), Another(mlp(7), objective())])


def test_a_term_cannot_be_called_task():
    with pytest.raises(ConfigError, match="named 'task'"):
        kd.DistillationCallback(mlp(7), kd.Objective({"task": kd.Term(kd.Match("logits", "logits"), nn.MSELoss())}))


def test_a_wrong_address_fails_before_the_first_step(tmp_path):
    terms = {"soft": kd.Term(kd.Match("logitz", "logits"), nn.MSELoss())}
    with pytest.raises(AddressError, match="Closest: logits"):
        fit(Classifier(), kd.DistillationCallback(mlp(7), kd.Objective(terms)), tmp_path)


def test_a_shared_teacher_is_refused(tmp_path):
    host = Classifier()
    with pytest.raises(KDError, match=r"share the parameter"):
        fit(host, kd.DistillationCallback(host.model, objective()), tmp_path)


def test_a_loss_that_is_not_a_number_names_its_term(tmp_path):
    teacher = mlp(7)
    nn.init.constant_(teacher[2].bias, float("nan"))
    with pytest.raises(NonFiniteLossError, match=r"at step 0, in term soft\."):
        fit(Classifier(), kd.DistillationCallback(teacher, objective()), tmp_path)


def test_a_student_that_was_compiled_is_tapped(tmp_path):
    host, eager = Classifier(torch.compile(mlp(5), backend="eager")), Classifier()
    fit(host, guest(), tmp_path)
    fit(eager, guest(), tmp_path)
    for one, other in zip(host.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(one, other)
