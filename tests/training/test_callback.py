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


def mlp_callback(**options: Any) -> kd.DistillationCallback:
    return kd.DistillationCallback(mlp(7, seed=1), objective(), **options)


def fit(module: pl.LightningModule, callback: Any, folder: Any, batches: Any = None, **options: Any) -> pl.Trainer:
    runner = trainer(folder, **{"max_epochs": 1, "callbacks": [callback]} | options)
    torch.manual_seed(7)
    runner.fit(module, ready(batches or PAIRS))
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
def test_a_plain_classifier_is_trained_like_a_loop_by_hand(tmp_path, group, task):
    module, callback = Classifier(), mlp_callback(task_weight=task)
    student, teacher = copy.deepcopy(module.model), mlp(7, seed=1)
    torch.manual_seed(7)
    projection = nn.Linear(5, 7)
    fit(module, callback, tmp_path, accumulate_grad_batches=group)
    by_hand(student, teacher, projection, group, task)
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(module.model.get_parameter(name), parameter)
    torch.testing.assert_close(callback.objective.projections()["hidden"].weight, projection.weight)


def test_all_terms_are_logged_beside_the_users_own_logs(tmp_path):
    runner = fit(Classifier(), mlp_callback(task_weight=2.0), tmp_path, limit_train_batches=1)
    logged = runner.callback_metrics
    terms = ("task", "soft", "hidden")
    assert set(logged) >= {"train/loss", "distillation/loss", *(f"distillation/weighted/{t}" for t in terms)}
    torch.testing.assert_close(logged["distillation/loss/task"], logged["train/loss"])
    torch.testing.assert_close(logged["distillation/weighted/task"], 2 * logged["train/loss"])
    torch.testing.assert_close(logged["distillation/loss"], sum(logged[f"distillation/weighted/{t}"] for t in terms))


def test_the_repr_names_teacher_terms_and_student():
    callback = mlp_callback(student="net")
    text = "DistillationCallback(teacher={}, terms={{soft: 0.7, hidden: 0.3}}, student='net')"
    assert repr(callback) == text.format("Sequential")
    assert callback.teacher
    assert repr(callback) == text.format("LiveTeacher(Sequential)")


def bert_callback(**options: Any) -> kd.DistillationCallback:
    terms = {
        "logits": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=2.0)),
        "hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel(), schedule=kd.schedules.LinearDecay()),
        "hidden": kd.MatchScheme("hidden", kd.losses.HiddenMSE(), projection="linear"),
        "attention": kd.Term(kd.Match("attention.2", "attention.4"), kd.losses.AttentionMSE()),
    }
    return kd.DistillationCallback(bert(4, 24, seed=1), kd.Objective(terms), student="parts.encoder", **options)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_transformers_model_in_a_dict_with_a_scheduler(tmp_path, precision):
    module, callback = Tuner(), bert_callback()
    before, teacher = weights(module), weights(callback.teacher.model)
    batches = [words(seed=i) for i in range(4)]
    runner = fit(module, callback, tmp_path, batches, precision=precision, gradient_clip_val=1.0)
    assert not same(before, weights(module))
    assert same(teacher, weights(callback.teacher.model))
    assert runner.callback_metrics["distillation/loss/attention"] > 0
    trained = {id(p) for group in runner.optimizers[0].param_groups for p in group["params"]}
    assert {id(p) for p in callback.objective.parameters()} <= trained
    assert {id(p) for p in callback.teacher.model.parameters()}.isdisjoint(trained)


def test_the_callback_is_uninstalled_after_a_fit(tmp_path):
    module, callback = Classifier(), mlp_callback()
    fit(module, callback, tmp_path)
    assert not {"training_step", "configure_optimizers"} & module.__dict__.keys()
    assert hooks_on(module) == 0
    assert hooks_on(callback.teacher.model) == 0
    assert list(module.state_dict()) == list(Classifier().state_dict())


def test_the_callback_is_uninstalled_after_an_exception(tmp_path):
    class Fails(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            super().training_step(batch, batch_idx)
            raise ZeroDivisionError

    module = Fails()
    with pytest.raises(ZeroDivisionError):
        fit(module, mlp_callback(), tmp_path)
    assert not {"training_step", "configure_optimizers"} & module.__dict__.keys()
    assert hooks_on(module) == 0
    assert "kd_objective" not in module._modules


def test_a_step_that_returns_none_is_skipped(tmp_path):
    class Skips(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
            return None

    module = Skips()
    before = weights(module)
    fit(module, mlp_callback(), tmp_path)
    assert same(before, weights(module))


# -- checkpoints


def checkpointed(folder: Any) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=2, save_top_k=-1)


def test_the_users_module_alone_loads_the_checkpoint_strictly(tmp_path):
    module = Classifier()
    fit(module, mlp_callback(), tmp_path, enable_checkpointing=True, callbacks=[mlp_callback(), checkpointed(tmp_path)])
    path = tmp_path / "step=4.ckpt"
    assert not any("kd_objective" in key for key in torch.load(path, weights_only=True)["state_dict"])
    assert same(weights(Classifier.load_from_checkpoint(path)), weights(module))


def test_a_run_that_is_resumed_ends_bit_equal(tmp_path):
    def run(folder: Any, **resumed: Any) -> tuple[Any, Any]:
        module, callback = Tuner(), bert_callback()
        noise = kd.callbacks.StepSeed(3)
        runner = trainer(
            folder, max_epochs=2, callbacks=[noise, callback, checkpointed(folder)], enable_checkpointing=True
        )
        runner.fit(module, ready([words(seed=i) for i in range(4)]), **resumed)
        return weights(module), weights(callback.objective)

    torch.manual_seed(1)
    whole = run(tmp_path / "whole")
    torch.manual_seed(2)  # other projections, which the checkpoint must replace
    again = run(tmp_path / "again", ckpt_path=tmp_path / "whole" / "step=4.ckpt")
    assert same(whole[0], again[0])
    assert same(whole[1], again[1])


def test_a_second_fit_continues_with_the_same_projections(tmp_path):
    module, callback = Classifier(), mlp_callback()
    fit(module, callback, tmp_path)
    trained = weights(callback.objective)
    fit(module, callback, tmp_path, limit_train_batches=0)
    assert same(trained, weights(callback.objective))


# -- modules, terms and teachers that raise


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (Twice(), {}, r"ran the student \(Sequential\) 3 times.*exactly one forward pass"),
        (ByHand(), {}, r"ByHand optimizes manually"),
        (Classifier(), {"student": "modle"}, r"Classifier has no model at student='modle'. Closest: model"),
        (Classifier(), {"student": "configure"}, r"no model at student='configure'"),
    ],
)
def test_unsupported_modules_raise_and_are_left_unchanged(tmp_path, module, options, message):
    with pytest.raises(ConfigError, match=message):
        fit(module, mlp_callback(**options), tmp_path)
    assert "kd_objective" not in module._modules
    assert hooks_on(module) == 0


def test_a_student_that_runs_once_beside_other_models_is_supported(tmp_path):
    class TwoNets(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.other = mlp(5, seed=3)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            return F.cross_entropy(self.model(x) + self.other(x) + self.other(-x), y)

    fit(TwoNets(), mlp_callback(), tmp_path)


def test_two_callbacks_on_one_module_raise(tmp_path):
    class Another(kd.DistillationCallback):
        pass

    with pytest.raises(ConfigError, match="has a DistillationCallback already"):
        fit(Classifier(), mlp_callback(), tmp_path, callbacks=[mlp_callback(), Another(mlp(7), objective())])


def test_a_term_named_task_raises():
    with pytest.raises(ConfigError, match="named 'task'"):
        kd.DistillationCallback(mlp(7), kd.Objective({"task": kd.Term(kd.Match("logits", "logits"), nn.MSELoss())}))


def test_a_wrong_address_raises_before_the_first_step(tmp_path):
    terms = {"soft": kd.Term(kd.Match("logitz", "logits"), nn.MSELoss())}
    with pytest.raises(AddressError, match="Closest: logits"):
        fit(Classifier(), kd.DistillationCallback(mlp(7), kd.Objective(terms)), tmp_path)


def test_a_shared_teacher_raises(tmp_path):
    module = Classifier()
    with pytest.raises(KDError, match=r"share the parameter"):
        fit(module, kd.DistillationCallback(module.model, objective()), tmp_path)


def test_a_loss_that_is_not_finite_names_its_term(tmp_path):
    teacher = mlp(7)
    nn.init.constant_(teacher[2].bias, float("nan"))
    with pytest.raises(NonFiniteLossError, match=r"at step 0, in term soft\."):
        fit(Classifier(), kd.DistillationCallback(teacher, objective()), tmp_path)


def test_a_student_that_was_compiled_is_tapped(tmp_path):
    module, eager = Classifier(torch.compile(mlp(5), backend="eager")), Classifier()
    fit(module, mlp_callback(), tmp_path)
    fit(eager, mlp_callback(), tmp_path)
    for one, other in zip(module.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(one, other)
