"""Teachers that are made of the student: its moving average, and its own features."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

import kd_lightning as kd
from kd_lightning.core.errors import ConfigError, MatchError
from kd_lightning.training.callbacks import StepSeed

from ..toys import OfAUser, Spy, bert, ready, trainer, words


def objective() -> kd.Objective:
    return kd.Objective(
        {
            "hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel()),
            "soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=2.0)),
        }
    )


def module_of(teacher: kd.TeacherSource, seed: int = 0, dropout: float = 0.0) -> kd.DistillationModule:
    optimizer = partial(torch.optim.AdamW, lr=1e-2)
    return kd.DistillationModule(bert(2, seed=seed, dropout=dropout), teacher, objective(), optimizer)


def batches(count: int) -> list[dict[str, Tensor]]:
    return [words(seed=i) for i in range(count)]


# -- the moving average ----------------------------------------------------------------------------------------------


def average_by_hand(states: list[dict[str, Tensor]], decay: float, warmup: bool) -> dict[str, Tensor]:
    """The average after each step; `states` are the student's before the first step and after each."""
    average = {name: value.double() for name, value in states[0].items()}
    for t, state in enumerate(states[1:]):
        m = min(decay, (1 + t) / (10 + t)) if warmup else decay
        for name in average:
            average[name] = m * average[name] + (1 - m) * state[name].double()
    return average


@pytest.mark.parametrize(("decay", "warmup"), [(0.9, False), (0.999, True), (0.15, True)])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_average_is_that_of_a_loop(decay, warmup, accumulate, tmp_path):
    module = module_of(kd.EMATeacher(decay, warmup))
    states = [copy.deepcopy(dict(module.student.named_parameters()))]

    def keep(runner: Any, _: Any) -> None:
        if runner.global_step == len(states):
            states.append({name: p.detach().clone() for name, p in module.student.named_parameters()})

    runner = trainer(tmp_path, max_epochs=1, accumulate_grad_batches=accumulate, callbacks=[Spy(keep)])
    runner.fit(module, ready(batches(8)))
    assert len(states) == 1 + 8 // accumulate
    expected = average_by_hand(states, decay, warmup)
    found = dict(module.teacher.model.named_parameters())  # type: ignore[union-attr]
    assert all(torch.allclose(found[name].double(), value, rtol=1e-5, atol=1e-7) for name, value in expected.items())


def test_buffers_are_the_students_and_the_average_is_in_eval_mode(tmp_path):
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    teacher = kd.EMATeacher(0.5, warmup=False)
    module = kd.DistillationModule(student, teacher, objective(), partial(torch.optim.SGD, lr=0.1))
    rows = [{"input": torch.randn(6, 4), "labels": torch.randint(3, (6,))} for _ in range(3)]
    trainer(tmp_path, max_epochs=1).fit(module, ready(rows))
    assert torch.equal(teacher.model[1].running_mean, student[1].running_mean)  # type: ignore[index]
    assert int(teacher.model[1].num_batches_tracked) == 3  # type: ignore[index]
    assert not any(part.training for part in teacher.model.modules())
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert not any(key.startswith("teacher") for key in module.state_dict())


def test_the_average_is_kept_in_float32(tmp_path):
    teacher = kd.EMATeacher(0.999, warmup=False)
    module = module_of(teacher)
    trainer(tmp_path, max_steps=2, precision="bf16-true").fit(module, ready(batches(2)))
    assert {p.dtype for p in module.student.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in teacher.model.parameters()} == {torch.float32}


def test_weights_that_are_loaded_before_training_are_what_it_begins_with(tmp_path):
    module = module_of(kd.EMATeacher(0.9, warmup=False))
    module.student.load_state_dict(bert(2, seed=5).state_dict())
    trainer(tmp_path, max_epochs=1).fit(module, ready(batches(1)))
    begun, ended = bert(2, seed=5).classifier.weight, module.student.classifier.weight
    found = module.teacher.model.classifier.weight  # type: ignore[union-attr]
    assert torch.allclose(found, 0.9 * begun + 0.1 * ended, atol=1e-7)


def run(folder: Any, epochs: int, start: Any = None, seed: int = 0) -> tuple[kd.DistillationModule, Any]:
    module = module_of(kd.EMATeacher(0.9), seed, dropout=0.2)
    save = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    options: dict[str, Any] = {"max_epochs": epochs, "enable_checkpointing": True, "callbacks": [save, StepSeed(3)]}
    trainer(folder, **options).fit(module, ready(batches(4)), ckpt_path=start)
    return module, torch.load(folder / f"epoch={epochs - 1}.ckpt", weights_only=True)


def test_a_resumed_run_has_the_average_of_one_never_stopped(tmp_path):
    whole, saved = run(tmp_path / "whole", 2)
    run(tmp_path / "cut", 1)
    resumed, _ = run(tmp_path / "cut", 2, tmp_path / "cut" / "epoch=0.ckpt", seed=9)
    assert int(saved["kd_teacher"]["n_averaged"]) == 1 + 8
    for one, other in ((whole.student, resumed.student), (whole.teacher.model, resumed.teacher.model)):  # type: ignore[union-attr]
        assert all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


def test_a_checkpoint_within_an_epoch_has_the_average_of_its_step(tmp_path):
    teacher = kd.EMATeacher(0.5, warmup=False)
    module, seen = module_of(teacher), []
    save = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    spy = Spy(lambda *_: seen.append(copy.deepcopy(teacher.state_dict())))
    trainer(tmp_path, max_epochs=1, enable_checkpointing=True, callbacks=[save, spy]).fit(module, ready(batches(4)))
    for step in (2, 4):
        saved = torch.load(tmp_path / f"step={step}.ckpt", weights_only=True)["kd_teacher"]
        assert all(torch.equal(value, saved[key]) for key, value in seen[step - 1].items())


def test_the_callback_lets_the_average_follow_and_saves_it(tmp_path):
    terms = {"soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget())}
    teacher = kd.EMATeacher(0.5, warmup=False)
    added, module = kd.DistillationCallback(teacher, kd.Objective(terms)), OfAUser()
    begun = copy.deepcopy(module.model.state_dict())
    save = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    options: dict[str, Any] = {"max_epochs": 1, "enable_checkpointing": True, "callbacks": [added, save]}
    trainer(tmp_path, **options).fit(module, ready(batches(1)))
    expected = 0.5 * begun["classifier.weight"] + 0.5 * module.model.classifier.weight
    assert torch.allclose(teacher.model.classifier.weight, expected, atol=1e-7)
    saved = torch.load(tmp_path / "step=1.ckpt", weights_only=True)["callbacks"][added.state_key]
    assert torch.equal(saved["teacher"]["module.classifier.weight"], teacher.model.classifier.weight)
    assert "optimizer_step" not in vars(module)


def test_an_average_that_is_in_no_module_is_an_error():
    with pytest.raises(ConfigError, match="not yet in one"):
        kd.EMATeacher()({"input": torch.zeros(1)})


def test_several_tasks_are_refused():
    with pytest.raises(ConfigError, match="follows the student of one task"):
        kd.MultiTaskModule({"one": module_of(kd.EMATeacher())})


@pytest.mark.parametrize("options", [{"decay": 1.0}, {"decay": -0.1}, {"decay": "much"}, {"warmup": 0.5}])
def test_numbers_that_cannot_be(options):
    with pytest.raises(ConfigError, match="Expected argument"):
        kd.EMATeacher(**options)


# -- its own features ------------------------------------------------------------------------------------------------


def test_own_features_teach_without_gradient():
    match = kd.Match("hidden.1", "hidden.2")
    own = kd.Objective({"deeper": kd.Term(match, kd.losses.HiddenMSE())})
    module = kd.DistillationModule(bert(2), kd.SelfTeacher(), own)
    batch = words()
    report = module.compare(batch)
    report.total.backward()
    student = bert(2)
    outputs = student(**{k: v for k, v in batch.items() if k != "labels"}, output_hidden_states=True).hidden_states
    real = batch["attention_mask"].bool()
    expected = (outputs[1] - outputs[2].detach())[real].square().mean()
    expected.backward()
    assert float(report.total.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for (name, p), q in zip(module.student.named_parameters(), student.parameters(), strict=True):
        found, wanted = (torch.zeros(()) if g is None else g for g in (p.grad, q.grad))
        assert torch.allclose(found, wanted, atol=1e-6), name
    assert all(p.grad is None for n, p in module.student.named_parameters() if ".layer.1." in n)


def test_own_features_in_training_and_by_the_callback(tmp_path):
    own = kd.Objective({"deeper": kd.Term(kd.Match("hidden.1", "hidden.2"), kd.losses.HiddenMSE())})
    added, module = kd.DistillationCallback(kd.SelfTeacher(), own), OfAUser()
    trainer(tmp_path, max_epochs=1, callbacks=[added]).fit(module, ready(batches(2)))
    both = kd.DistillationModule(bert(2), kd.SelfTeacher(), own, partial(torch.optim.SGD, lr=0.1))
    trainer(tmp_path, max_epochs=1).fit(both, ready(batches(2)), ready(batches(1)))


def test_features_cannot_teach_themselves():
    def module(weight):
        terms = {"hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel())}
        terms["logits"] = kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(), weight=weight)
        return kd.DistillationModule(bert(2), kd.SelfTeacher(), kd.Objective(terms))

    with pytest.raises(MatchError, match=r"Term 'logits' .* cannot teach themselves"):
        module(1.0)
    assert module(0.0).compare(words()).total.requires_grad


def test_rows_are_not_weighted_by_how_far_the_student_is_from_itself():
    term = kd.Term(kd.Match("hidden.1", "hidden.2"), kd.losses.HiddenMSE(), sample_weight=kd.sample_weights.Gap())
    with pytest.raises(MatchError, match="take Entropy or Confidence"):
        kd.DistillationModule(bert(2), kd.SelfTeacher(), kd.Objective({"deeper": term}))


@pytest.mark.parametrize("make", [kd.EMATeacher, kd.DelayedTeacher])
def test_a_teacher_of_two_modules_is_refused(make, tmp_path):
    shared = make()
    first, second = module_of(shared), module_of(shared)
    with pytest.raises(ConfigError, match="follows the student of another module"):
        trainer(tmp_path, max_epochs=1).fit(first, ready(batches(2)))
    trainer(tmp_path, max_epochs=1).fit(second, ready(batches(2)))
    trainer(tmp_path, max_epochs=1).fit(copy.deepcopy(second), ready(batches(2)))
