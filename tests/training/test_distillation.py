from __future__ import annotations

import copy
import itertools
import pickle
from functools import partial
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR
from torch.utils.data import IterableDataset
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

import kd_lightning as kd
from kd_lightning.core.errors import AddressError, ConfigError, KDError, MatchError, NonFiniteLossError
from kd_lightning.training.optim import linear_warmup

from ..toys import Spy, bert, hooks_on, mlp, pairs, ready, same, trainer, weights, words

SGD = partial(torch.optim.SGD, lr=0.1)


def bert_objective() -> kd.Objective:
    return kd.Objective(
        {
            "hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel()),
            "logits": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=4.0), weight=0.5),
            "hidden": kd.MatchScheme("hidden", kd.losses.HiddenMSE(), embeddings=True, projection="linear"),
            "attention": kd.Term(kd.Match("attention.2", "attention.4"), kd.losses.AttentionMSE()),
        }
    )


def bert_module(**options: Any) -> kd.DistillationModule:
    student, teacher = bert(2, 16, dropout=0.1), bert(4, 24, seed=1, dropout=0.5)
    return kd.DistillationModule(student, teacher, bert_objective(), **{"optimizer": SGD} | options)


def mlp_objective(**options: Any) -> kd.Objective:
    return kd.Objective(
        {
            "soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=3.0), weight=0.7),
            "hidden": kd.Term(kd.Match("0", "0"), nn.MSELoss(), 0.3, projection="linear", **options),
        }
    )


def mlp_module(**options: Any) -> kd.DistillationModule:
    torch.manual_seed(5)
    return kd.DistillationModule(mlp(5), mlp(7, seed=1), mlp_objective(), **{"optimizer": SGD} | options)


BATCHES = [words(seed=i) for i in range(4)]
PAIRS = [pairs(seed=i) for i in range(4)]


# -- the arithmetic, against a loop written by hand


def by_hand(student: nn.Module, teacher: nn.Module, projection: nn.Linear, steps: int) -> None:
    parameters = [*student.parameters(), *projection.parameters()]
    for i in range(steps):
        x, _ = PAIRS[i % len(PAIRS)]
        with torch.no_grad():
            wide = x @ teacher[0].weight.T + teacher[0].bias
            target = torch.tanh(wide) @ teacher[2].weight.T + teacher[2].bias
        narrow = x @ student[0].weight.T + student[0].bias
        scores = torch.tanh(narrow) @ student[2].weight.T + student[2].bias
        p = torch.exp(target / 3) / torch.exp(target / 3).sum(-1, keepdim=True)
        q = torch.exp(scores / 3) / torch.exp(scores / 3).sum(-1, keepdim=True)
        soft = 9 * (p * (p.log() - q.log())).sum() / len(x)
        hidden = ((narrow @ projection.weight.T + projection.bias - wide) ** 2).sum() / wide.numel()
        gradients = torch.autograd.grad(0.7 * soft + 0.3 * hidden, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= 0.1 * gradient


def test_five_steps_equal_a_loop_written_by_hand(tmp_path):
    module = mlp_module()
    student, projection = copy.deepcopy((module.student, module.objective.projections()["hidden"]))
    by_hand(student, mlp(7, seed=1), projection, steps=5)
    trainer(tmp_path, max_steps=5).fit(module, ready(PAIRS))
    for one, other in ((module.student, student), (module.objective.projections()["hidden"], projection)):
        for name, value in other.state_dict().items():
            torch.testing.assert_close(one.state_dict()[name], value, atol=1e-5, rtol=1e-5)


def test_accumulated_micro_batches_are_averaged(tmp_path):
    whole, parts = mlp_module(), mlp_module()
    x, y = pairs(8)
    trainer(tmp_path, max_steps=1).fit(whole, ready([(x, y)]))
    trainer(tmp_path, max_steps=1, accumulate_grad_batches=2).fit(parts, ready([(x[:4], y[:4]), (x[4:], y[4:])]))
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other)


# -- the teacher


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "64-true"])
@pytest.mark.parametrize(
    "options", [{}, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}], ids=["", "accumulate"]
)
def test_a_fit_moves_the_student_and_leaves_the_teacher_bit_equal(tmp_path, precision, options):
    module = bert_module()
    teacher = module.teacher.model
    before, start = weights(teacher), weights(module.student)
    modes = []
    spy = Spy(lambda *_: modes.append((teacher.training, module.student.training)))
    runner = trainer(tmp_path, max_steps=2, precision=precision, callbacks=[spy], **options)
    module.student.train()
    runner.fit(module, ready(BATCHES))
    assert same(before, weights(teacher))
    assert set(modes) == {(False, True)}
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    assert not same(start, weights(module.student))
    assert all(torch.isfinite(value).all() for value in runner.callback_metrics.values())
    assert (hooks_on(teacher), hooks_on(module.student)) == (0, 0)
    moved = [name for name, value in module.student.named_parameters() if not torch.equal(value, start[name])]
    assert "classifier.weight" in moved


@pytest.mark.parametrize("precision", ["bf16-true", "64-true", "bf16-mixed"])
def test_floating_inputs_reach_the_teacher_in_its_own_precision(tmp_path, precision):
    module = mlp_module()
    trainer(tmp_path, max_steps=2, precision=precision).fit(module, ready(PAIRS))
    assert next(module.teacher.model.parameters()).dtype is torch.float32


def test_the_teacher_is_in_no_optimizer_submodule_or_checkpoint(tmp_path):
    module = bert_module()
    theirs = {id(p) for p in module.teacher.model.parameters()}
    seen: list[Any] = []
    spy = Spy(lambda runner, _: seen.extend(runner.optimizers))
    save = ModelCheckpoint(tmp_path, save_last=True)
    trainer(tmp_path, max_steps=1, callbacks=[spy, save], enable_checkpointing=True).fit(module, ready(BATCHES))
    in_optimizer = {id(p) for group in seen[0].param_groups for p in group["params"]}
    assert in_optimizer == {id(p) for p in module.parameters()}
    assert not theirs & in_optimizer
    assert not [name for name, _ in module.named_modules() if "teacher" in name]
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    projections = {f"objective.terms.hidden_{k}.projection.{kind}" for k in range(3) for kind in ("weight", "bias")}
    assert {name for name in saved["state_dict"] if not name.startswith("student.")} == projections
    assert not [name for name in saved if "teacher" in str(name)]


def test_a_shared_parameter_raises_and_the_student_stays_trainable():
    student = mlp(5)
    with pytest.raises(ConfigError, match=r"share the parameter '0.weight'.*copy\.deepcopy"):
        kd.DistillationModule(student, student, mlp_objective())
    assert all(p.requires_grad for p in student.parameters())
    teacher = mlp(5, seed=1)
    teacher[2].weight = student[2].weight
    with pytest.raises(ConfigError, match=r"'2\.weight'"):
        kd.DistillationModule(student, teacher, mlp_objective())
    assert all(p.requires_grad for p in (*student.parameters(), *teacher.parameters()))


def test_a_student_copied_from_a_frozen_teacher_raises():
    teacher = kd.LiveTeacher(mlp(5))
    with pytest.raises(ConfigError, match=r"no trainable parameter.*requires_grad_"):
        kd.DistillationModule(copy.deepcopy(teacher.model), teacher, mlp_objective())


def test_a_partly_frozen_student_is_trained(tmp_path):
    student = mlp(5)
    student[0].requires_grad_(False)
    before = weights(student)
    trainer(tmp_path, max_steps=1).fit(kd.DistillationModule(student, mlp(7), mlp_objective(), SGD), ready(PAIRS))
    assert torch.equal(before["0.weight"], student[0].weight)
    assert not torch.equal(before["2.weight"], student[2].weight)


def test_a_teacher_of_another_type_raises():
    with pytest.raises(ConfigError, match=r"nn\.Module but got str"):
        kd.DistillationModule(mlp(5), "bert", mlp_objective())


# -- terms and metrics that do not fit the models


def test_a_wrong_address_raises_at_construction():
    objective = kd.Objective({"h": kd.Term(kd.Match("hidden.1", "hidden.9"), nn.MSELoss())})
    with pytest.raises(AddressError, match=r"Term 'h' \(hidden.1 ← hidden.9\)"):
        kd.DistillationModule(bert(2), bert(4), objective)


def test_a_projection_of_unknown_width_raises():
    objective = kd.Objective({"h": kd.Term(kd.Match("1", "1"), nn.MSELoss(), projection="linear")})
    with pytest.raises(MatchError, match=r"Term 'h'.*nn\.Module"):
        kd.DistillationModule(mlp(5), mlp(7), objective)


def test_metrics_need_logits():
    class Headless(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"pooled": x}

    objective = kd.Objective({"h": kd.Term(kd.Match("pooled"), torch.sum)})
    with pytest.raises(KDError):
        kd.DistillationModule(Headless(), None, objective, metrics={"a": MulticlassAccuracy(3)})


# -- batches of every form


class Foreign(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(5)

    def forward(self, picture: Tensor) -> tuple[list[Tensor]]:
        return ([self.net(picture)],)


ADAPTER = kd.Adapter(lambda batch: batch["image"], lambda output: {"logits": output[0][0]})


def test_a_foreign_student_needs_one_adapter(tmp_path):
    objective = kd.Objective({"soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget())})
    teacher = kd.LiveTeacher(Foreign(), adapter=ADAPTER)
    student = Foreign()
    before = weights(student)
    student.net[2].bias.data += 1.0
    metrics = {"accuracy": MulticlassAccuracy(3)}
    module = kd.DistillationModule(student, teacher, objective, SGD, metrics=metrics, adapter=ADAPTER)
    batches = [{"image": x, "labels": y} for x, y in PAIRS]
    trainer(tmp_path, max_steps=2).fit(module, ready(batches), ready(batches))
    assert not same(before, weights(student))


def test_two_models_may_have_different_inputs(tmp_path):
    objective = kd.Objective(
        {
            "hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel()),
            "soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget()),
        }
    )
    module = kd.DistillationModule(bert(2), mlp(7), objective, SGD, metrics={"accuracy": MulticlassAccuracy(3)})
    x, y = pairs(4)
    inside = {"student": words(labels=3), "teacher": x}
    beside = {"student": {k: v for k, v in words().items() if k != "labels"}, "teacher": (x, y), "labels": y}
    for batch in (inside, beside):
        trainer(tmp_path, max_steps=1).fit(module, ready([batch]), ready([batch]))


def test_a_student_may_learn_from_labels_alone(tmp_path):
    objective = kd.Objective({"hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel())})
    module = kd.DistillationModule(mlp(5), None, objective, SGD)
    x, y = pairs()
    expected = F.cross_entropy(module.student(x), y)
    torch.testing.assert_close(module.compare((x, y)).total, expected)
    trainer(tmp_path, max_steps=2).fit(module, ready(PAIRS), ready(PAIRS))


def test_the_models_own_loss_is_a_term():
    objective = kd.Objective({"own": kd.Term(kd.Match("loss"), kd.losses.Identity())})
    module = kd.DistillationModule(bert(), None, objective)
    batch = words()
    torch.testing.assert_close(module.compare(batch).total, module.student(**batch).loss)


def test_a_teacher_that_no_term_needs_does_not_run():
    objective = kd.Objective({"hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel())})
    teacher = mlp(7)
    teacher.forward = lambda x: 1 / 0
    kd.DistillationModule(mlp(5), teacher, objective).compare(pairs())


def test_forward_gives_the_students_features():
    features = mlp_module()(pairs())
    assert {address: feature.shape for address, feature in features.items()} == {"logits": (8, 3), "0": (8, 5)}


def test_the_repr_names_the_teacher_and_the_terms_with_their_weights():
    text = repr(mlp_module())
    assert "teacher=LiveTeacher(Sequential), terms={soft: 0.7, hidden: 0.3}" in text
    assert "(student): Sequential(" in text
    assert "teacher=None" in repr(
        kd.DistillationModule(mlp(5), None, kd.Objective({"own": kd.Term(kd.Match("0"), torch.sum)}))
    )


# -- what is logged


def test_training_logs_total_parts_and_weighted_parts(tmp_path):
    module = mlp_module()
    x, y = PAIRS[0]
    report = module.compare((x, y))
    runner = trainer(tmp_path, max_steps=1)
    runner.fit(module, ready(PAIRS))
    logged = {name: value.item() for name, value in runner.callback_metrics.items()}
    names = {"train/loss"} | {f"train/{kind}/{term}" for kind in ("loss", "weighted") for term in ("soft", "hidden")}
    assert logged.keys() == names
    assert logged["train/loss"] == pytest.approx(report.total.item())
    assert logged["train/weighted/soft"] == pytest.approx(0.7 * logged["train/loss/soft"])


@pytest.mark.parametrize("make", [dict, MetricCollection], ids=["dict", "collection"])
def test_metrics_are_exact_over_the_validation_set(tmp_path, make):
    module = mlp_module(metrics=make({"accuracy": MulticlassAccuracy(3, average="micro")}))
    batches = [pairs(rows, seed=rows) for rows in (7, 2, 4)]
    runner = trainer(tmp_path, max_epochs=1)
    runner.fit(module, ready(PAIRS), ready(batches))
    right = sum(int((module.student(x).argmax(-1) == y).sum()) for x, y in batches)
    assert float(runner.callback_metrics["val/accuracy"]) == pytest.approx(right / 13)
    (alone,) = trainer(tmp_path).validate(module, ready(batches), verbose=False)
    assert alone == {"val/accuracy": pytest.approx(right / 13)}


def test_without_metrics_the_objective_is_the_validation_loss(tmp_path):
    module = mlp_module()
    batches = [pairs(rows, seed=rows) for rows in (7, 2)]
    (logged,) = trainer(tmp_path).validate(module, ready(batches), verbose=False)
    expected = (7 * module.compare(batches[0]).total + 2 * module.compare(batches[1]).total) / 9
    assert logged == {"val/loss": pytest.approx(expected.item())}


# -- schedules and optimizers


def scheduled(schedule: Any) -> kd.DistillationModule:
    term = kd.Term(kd.Match("logits", "logits"), nn.MSELoss(), weight=2.0, schedule=schedule)
    return kd.DistillationModule(mlp(5), mlp(7), kd.Objective({"a": term}), SGD)


def test_schedules_get_the_share_of_optimizer_steps_done(tmp_path):
    seen: list[float] = []
    module = scheduled(lambda progress: seen.append(progress) or 1.0)
    trainer(tmp_path, max_epochs=2, accumulate_grad_batches=2).fit(module, ready(PAIRS))
    assert seen == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75]


def test_validation_during_a_fit_uses_the_weights_of_training(tmp_path):
    module = scheduled(kd.schedules.LinearGrowth())
    seen: list[dict[str, float]] = []
    compare = module.compare
    module.compare = lambda *args, **more: seen.append((report := compare(*args, **more)).weights) or report
    trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0).fit(module, ready(PAIRS[:1]), ready(PAIRS[:1]))
    assert [weight["a"] for weight in seen] == [0.0, 1.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("scheduler", "last"),
    [
        (partial(OneCycleLR, max_lr=0.1, anneal_strategy="linear", pct_start=0.5), 0.1 / 25 / 1e4),
        (CosineAnnealingLR, 0.0),
        (partial(linear_warmup, warmup=0.25), 0.0),
    ],
)
def test_schedulers_are_stepped_every_step_and_end_with_the_run(tmp_path, scheduler, last):
    module = mlp_module(scheduler=scheduler)
    found: list[float] = []
    spy = Spy(lambda runner, _: found.append(runner.optimizers[0].param_groups[0]["lr"]))
    trainer(tmp_path, max_epochs=3, accumulate_grad_batches=2, callbacks=[spy]).fit(module, ready(PAIRS))
    assert module.total_steps() == 6
    assert len(set(found)) > 4
    if scheduler is CosineAnnealingLR or scheduler.func is linear_warmup:
        assert found[-1] == pytest.approx(last, abs=1e-9)
    else:
        assert min(found) == found[-1]


def test_projections_may_have_their_own_learning_rate(tmp_path):
    torch.manual_seed(0)
    module = kd.DistillationModule(mlp(5), mlp(7), mlp_objective(projection_lr=0.0), SGD)
    before = weights(module.objective)
    found: list[Any] = []
    spy = Spy(lambda runner, _: found.append([group["lr"] for group in runner.optimizers[0].param_groups]))
    trainer(tmp_path, max_steps=1, callbacks=[spy]).fit(module, ready(PAIRS))
    assert found == [[0.1, 0.0]]
    assert same(before, weights(module.objective))


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return itertools.cycle(PAIRS)


@pytest.mark.parametrize("what", ["scheduler", "schedule"])
def test_an_endless_loader_without_max_steps_raises_before_the_first_step(tmp_path, what):
    module = mlp_module(scheduler=linear_warmup) if what == "scheduler" else scheduled(kd.schedules.Cosine())
    steps: list[int] = []
    runner = trainer(tmp_path, max_epochs=1, callbacks=[Spy(lambda *_: steps.append(1))])
    with pytest.raises(ConfigError, match=r"no end.*max_steps"):
        runner.fit(module, torch.utils.data.DataLoader(Endless(), batch_size=None))
    assert not steps
    bounded = trainer(tmp_path, max_steps=3)
    bounded.fit(module, torch.utils.data.DataLoader(Endless(), batch_size=None))
    assert bounded.global_step == 3


# -- exceptions


def test_a_loss_that_is_not_finite_names_its_term(tmp_path):
    objective = kd.Objective(
        {
            "good": kd.Term(kd.Match("logits", "logits"), nn.MSELoss()),
            "bad": kd.Term(kd.Match("logits"), lambda x: x.mean() * float("nan"), weight=0.5),
        }
    )
    module = kd.DistillationModule(mlp(5), mlp(7), objective, SGD)
    with pytest.raises(NonFiniteLossError, match=r"at step 0, in term bad\. "):
        trainer(tmp_path, max_steps=2).fit(module, ready(PAIRS))


class Raises(pl.Callback):
    def on_before_backward(self, *rest: Any) -> None:
        raise RuntimeError("stop")


@pytest.fixture
def eager_compile(monkeypatch):
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **options: real(model, backend="eager", **options))


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_no_hook_stays_after_an_exception(tmp_path, compiled, eager_compile):
    teacher = kd.LiveTeacher(bert(4, 24), compile=compiled)
    module = kd.DistillationModule(bert(2), teacher, bert_objective(), SGD, compile=compiled)
    with pytest.raises(RuntimeError, match="stop"):
        trainer(tmp_path, max_steps=2, callbacks=[Raises()]).fit(module, ready(BATCHES))
    assert (hooks_on(module.student), hooks_on(teacher.model)) == (0, 0)


def test_no_hook_stays_when_the_forward_pass_raises(tmp_path):
    module = bert_module()
    with pytest.raises(IndexError):
        trainer(tmp_path, max_steps=1).fit(module, ready([words() | {"input_ids": torch.full((4, 6), 999)}]))
    assert (hooks_on(module.student), hooks_on(module.teacher.model)) == (0, 0)


# -- compiled


def check_compiled(folder: Any) -> None:
    plain = kd.DistillationModule(bert(2), bert(4, 24), kd.Objective({"l": logits_term(), "h": hidden_term()}), SGD)
    torch.manual_seed(0)
    teacher = kd.LiveTeacher(bert(4, 24), compile=True)
    objective = kd.Objective({"l": logits_term(), "h": hidden_term()})
    compiled = kd.DistillationModule(bert(2), teacher, objective, SGD, compile=True)
    compiled.objective.load_state_dict(plain.objective.state_dict())
    for module in (plain, compiled):
        trainer(folder, max_steps=3).fit(module, ready(BATCHES), ready(BATCHES[:1]))
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, atol=1e-4, rtol=1e-3)
    assert (hooks_on(compiled.student), hooks_on(teacher.model)) == (0, 0)


def logits_term() -> kd.Term:
    return kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget())


def hidden_term() -> kd.Term:
    return kd.Term(kd.Match("hidden.1", "hidden.2"), kd.losses.HiddenMSE(), projection="linear")


def test_a_compiled_run_gives_what_a_plain_one_does(tmp_path, eager_compile):
    check_compiled(tmp_path)


@pytest.mark.slow
def test_a_run_compiled_to_machine_code_gives_what_a_plain_one_does(tmp_path):
    check_compiled(tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_a_fit_on_the_gpu_in_mixed_precision_leaves_the_teacher_bit_equal(tmp_path, precision):
    module = bert_module()
    before = weights(module.teacher.model)
    options = {"accelerator": "gpu", "precision": precision, "gradient_clip_val": 1.0}
    trainer(tmp_path, max_steps=3, **options).fit(module, ready(BATCHES))
    assert same(before, weights(module.teacher.model.cpu()))


# -- checkpoints and copies


def saved_by(folder: Any, module: pl.LightningModule, **options: Any) -> Any:
    save = ModelCheckpoint(folder, save_last=True)
    runner = trainer(folder, callbacks=[save], enable_checkpointing=True, **{"max_steps": 2} | options)
    runner.fit(module, ready(BATCHES if isinstance(module.student, type(bert())) else PAIRS))
    return folder / "last.ckpt"


def test_a_checkpoint_loads_strictly_into_the_same_parts(tmp_path):
    file = saved_by(tmp_path, module := bert_module())
    parts = {"student": bert(2, seed=7), "teacher": bert(4, 24, seed=1), "objective": bert_objective()}
    loaded = kd.DistillationModule.load_from_checkpoint(file, **parts)
    assert same(weights(module), weights(loaded))
    with pytest.raises(TypeError, match="student"):
        kd.DistillationModule.load_from_checkpoint(file)
    with pytest.raises(RuntimeError, match=r"size mismatch|Missing key|Unexpected key"):
        kd.DistillationModule.load_from_checkpoint(file, **parts | {"student": bert(2, 20)})


def test_a_checkpoint_has_the_students_class_and_config_as_plain_data(tmp_path):
    from transformers import BertConfig

    saved = torch.load(saved_by(tmp_path, bert_module()), weights_only=True)
    assert saved["kd_student"]["class"] == "BertForSequenceClassification"
    assert BertConfig(**saved["kd_student"]["config"]).hidden_size == 16
    plain = torch.load(saved_by(tmp_path / "plain", mlp_module()), weights_only=True)
    assert "kd_student" not in plain


def test_a_run_resumes_from_its_checkpoint(tmp_path):
    make = partial(mlp_module, optimizer=partial(torch.optim.AdamW, lr=0.01), scheduler=linear_warmup)
    whole = make()
    trainer(tmp_path, max_steps=8, max_epochs=-1).fit(whole, ready(PAIRS))
    save = ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1)
    trainer(tmp_path, max_steps=8, max_epochs=-1, callbacks=[save], enable_checkpointing=True).fit(make(), ready(PAIRS))
    (file,) = tmp_path.glob("*step=4*")
    resumed = make()
    with torch.no_grad():
        next(resumed.parameters()).zero_()
    trainer(tmp_path, max_steps=8, max_epochs=-1).fit(resumed, ready(PAIRS), ckpt_path=file)
    assert same(weights(whole), weights(resumed))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("fitted", [False, True], ids=["new", "fitted"])
def test_a_copy_trains_alone(tmp_path, copied, fitted):
    module = bert_module()
    if fitted:
        trainer(tmp_path, max_steps=1).fit(module, ready(BATCHES), ready(BATCHES[:1]))
    other = copied(module)
    before, teacher = weights(module), weights(module.teacher.model)
    trainer(tmp_path, max_steps=1).fit(other, ready(BATCHES))
    assert same(before, weights(module))
    assert not same(before, weights(other))
    assert same(teacher, weights(other.teacher.model))
    assert hooks_on(other.student) == 0


def test_two_modules_may_share_a_teacher(tmp_path):
    teacher = kd.LiveTeacher(bert(4, 24))
    first = kd.DistillationModule(bert(2), teacher, kd.Objective({"a": logits_term()}), SGD)
    second = kd.DistillationModule(bert(2), teacher, kd.Objective({"a": hidden_term()}), SGD)
    for module in (first, second, first):
        trainer(tmp_path, max_steps=1).fit(module, ready(BATCHES))


def test_an_optimizer_instance_raises():
    student = mlp(4)
    objective = kd.Objective({"logits": kd.Term(kd.Match("logits", "logits"), nn.MSELoss())})
    with pytest.raises(ConfigError, match=r"`optimizer` to be a function, such as functools\.partial"):
        kd.DistillationModule(student, mlp(4), objective, optimizer=torch.optim.AdamW(student.parameters()))


# -- other features of Lightning


def test_a_test_set_is_scored_like_a_validation_set(tmp_path):
    module = mlp_module(metrics={"accuracy": MulticlassAccuracy(3, average="micro")})
    found = trainer(tmp_path).test(module, ready(PAIRS), verbose=False)[0]
    with torch.no_grad():
        right = [module.student(x).argmax(-1) == y for x, y in PAIRS]
    assert found["test/accuracy"] == pytest.approx(float(torch.cat(right).float().mean()))


def test_several_validation_loaders_count_as_one(tmp_path):
    module = mlp_module(metrics={"accuracy": MulticlassAccuracy(3, average="micro")})
    runner = trainer(tmp_path)
    both = runner.validate(module, [ready(PAIRS[:1]), ready(PAIRS[1:])], verbose=False)
    whole = runner.validate(module, ready(PAIRS), verbose=False)
    assert both[0]["val/accuracy"] == pytest.approx(whole[0]["val/accuracy"])


@pytest.mark.parametrize("metrics", [None, {"accuracy": MulticlassAccuracy(3)}])
def test_a_plateau_scheduler_monitors_the_first_metric(tmp_path, metrics):
    plateau = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, factor=0.5, threshold=1e9)
    runner = trainer(tmp_path, max_epochs=3)
    runner.fit(mlp_module(metrics=metrics, scheduler=plateau), ready(PAIRS), ready(PAIRS))
    assert runner.optimizers[0].param_groups[0]["lr"] < 0.1


def test_modules_that_are_given_the_same_metrics_do_not_share_them():
    metrics = {"accuracy": MulticlassAccuracy(3)}
    one, other = mlp_module(metrics=metrics), mlp_module(metrics=metrics)
    assert one.metrics.of_logits["accuracy"] is not other.metrics.of_logits["accuracy"]


def test_metrics_without_names_and_terms_without_objective_raise():
    with pytest.raises(ConfigError, match="metrics by name"):
        mlp_module(metrics=MulticlassAccuracy(3))
    with pytest.raises(ConfigError, match=r"Objective\(terms\), but got dict"):
        kd.DistillationModule(mlp(5), mlp(7), {"soft": None})


def test_two_modules_of_one_objective_are_trained_apart(tmp_path):
    shared = kd.Objective({"h": kd.MatchScheme("hidden", kd.losses.HiddenMSE(), projection="linear")})
    one = kd.DistillationModule(bert(4, 8), bert(4, 16), shared)
    other = kd.DistillationModule(bert(2, 12), bert(4, 16), shared)
    for module, layers in ((one, 4), (other, 2)):
        trainer(tmp_path, max_epochs=1).fit(module, ready(BATCHES))
        assert len(module.objective.named_terms()) == layers
