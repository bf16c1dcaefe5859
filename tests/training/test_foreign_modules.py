"""The callback on modules of others: Lightning's own demos, under both of its package names."""

from __future__ import annotations

import importlib
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import kd_lightning as kd
from kd_lightning.core.errors import ConfigError, DataError

from ..toys import hooks_on, same, weights

TOKENS = 40


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def pl(request, tmp_path, monkeypatch) -> Any:
    """One of the two packages, its demos, and a text file where they expect theirs."""
    package = pytest.importorskip(request.param)
    found = {name: importlib.import_module(f"{request.param}.demos.{name}") for name in ("boring_classes", "lstm")}
    demos = {key: value for module in found.values() for key, value in vars(module).items()}
    demos |= vars(importlib.import_module(f"{request.param}.demos.transformer"))
    monkeypatch.setattr(demos["WikiText2"], "download", staticmethod(lambda path: None))
    monkeypatch.chdir(tmp_path)
    draw = random.Random(0)
    lines = "\n".join(" ".join(draw.choice("abcdefghij") for _ in range(30)) for _ in range(40))
    Path("data").mkdir()
    Path("data/wikitext-2.txt").write_text(lines)
    return SimpleNamespace(**demos, Trainer=package.Trainer, ModelCheckpoint=package.callbacks.ModelCheckpoint)


def fit(pl: Any, module: Any, *callbacks: Any, loader: Any = None, ckpt: Any = None, **options: Any) -> Any:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"accelerator": "cpu", "enable_model_summary": False, "limit_train_batches": 3, "limit_val_batches": 1}
    quiet["max_epochs"] = 1
    trainer = pl.Trainer(callbacks=[kd.callbacks.StepSeed(3), *callbacks], **quiet | options)
    trainer.fit(module, *([] if loader is None else [loader]), ckpt_path=ckpt)
    return trainer


def soft(weight: float) -> dict[str, Any]:
    return {"soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(2.0), weight)}


def hidden(weight: float) -> dict[str, Any]:
    layers = kd.Match("transformer.encoder.layers.1", "transformer.encoder.layers.2")
    return {"hidden": kd.Term(layers, nn.MSELoss(), weight, projection="linear")}


def boring(pl: Any, weight: float, student: str = "layer") -> Any:
    """A linear layer; the batch is one tensor, the result a dict, the scheduler steps by epoch."""
    return pl.BoringModel(), kd.DistillationCallback(nn.Linear(32, 2), kd.Objective(soft(weight)), student), None


def boring_itself(pl: Any, weight: float) -> Any:
    """The LightningModule itself is the student."""
    return boring(pl, weight, student="")


def demo(pl: Any, weight: float) -> Any:
    """A layer whose input the module's forward reshapes."""
    loader = DataLoader(pl.RandomDataset(32, 16), 4)
    return pl.DemoModel(), kd.DistillationCallback(nn.Linear(32, 10), kd.Objective(soft(weight)), "l1"), loader


def transformer(pl: Any, weight: float) -> Any:
    """An encoder and decoder that takes both halves of the batch and flattens batch and time to one axis."""
    teacher = kd.LiveTeacher(pl.Transformer(TOKENS, ninp=64), adapter=kd.Adapter(inputs=tuple))
    return pl.LightningTransformer(TOKENS), kd.DistillationCallback(teacher, kd.Objective(soft(weight))), None


def transformer_inside(pl: Any, weight: float) -> Any:
    """The same, matched inside, with a projection that must join the optimizer over `self.model.parameters()`."""
    teacher = kd.LiveTeacher(pl.Transformer(TOKENS, ninp=64, nlayers=3), adapter=kd.Adapter(inputs=tuple))
    return pl.LightningTransformer(TOKENS), kd.DistillationCallback(teacher, kd.Objective(hidden(weight))), None


def lstm(pl: Any, weight: float) -> Any:
    """A model that takes and returns a state beside its output."""
    model = pl.SimpleLSTM(TOKENS)
    inputs = lambda batch: (batch[0], model.init_hidden(len(batch[0])))  # noqa: E731
    teacher = kd.LiveTeacher(model, adapter=kd.Adapter(inputs=inputs, outputs=lambda output: {"logits": output[0]}))
    outputs = kd.Adapter(outputs=lambda output: {"logits": output[0]})
    callback = kd.DistillationCallback(teacher, kd.Objective(soft(weight)), adapter=outputs)
    return pl.LightningLSTM(TOKENS), callback, None


MODULES = [boring, boring_itself, demo, transformer, transformer_inside, lstm]


@pytest.mark.parametrize("build", MODULES, ids=lambda build: build.__name__)
def test_a_term_of_weight_zero_changes_nothing_and_another_weight_does(pl, build):
    ends = {}
    for weight in (None, 0.0, 5.0):
        torch.manual_seed(0)
        module, callback, loader = build(pl, weight or 0.0)
        teacher = weights(callback.teacher.model)
        trainer = fit(pl, module, *([] if weight is None else [callback]), loader=loader)
        ends[weight] = weights(module)
        assert trainer.global_step > 0
        assert same(teacher, weights(callback.teacher.model))
        assert hooks_on(module) == hooks_on(callback.teacher.model) == 0
        assert not {"training_step", "configure_optimizers"} & module.__dict__.keys()
        (term,) = callback.objective.declared
        assert (f"distillation/loss/{term}" in trainer.callback_metrics) == (weight is not None)
    assert same(ends[None], ends[0.0])
    assert not same(ends[None], ends[5.0])


def test_a_boring_model_is_trained_by_its_loss_and_the_term(pl):
    torch.manual_seed(0)
    teacher = nn.Linear(32, 2)
    module = pl.BoringModel()
    rows = [torch.randn(4, 32) for _ in range(3)]
    weight, bias = (p.detach().clone().requires_grad_() for p in module.layer.parameters())
    for x in rows:
        scores = x @ weight.T + bias
        p, q = (torch.softmax(z / 2, -1) for z in (teacher(x).detach(), scores))
        loss = ((scores - 1) ** 2).mean() + 3.0 * 4 * (p * (p.log() - q.log())).sum(-1).mean()
        gradients = torch.autograd.grad(loss, (weight, bias))
        weight, bias = ((p - 0.1 * g).detach().requires_grad_() for p, g in zip((weight, bias), gradients, strict=True))
    callback = kd.DistillationCallback(teacher, kd.Objective(soft(3.0)), student="layer")
    fit(pl, module, callback, loader=DataLoader(rows, batch_size=None))
    torch.testing.assert_close(module.layer.weight, weight)
    torch.testing.assert_close(module.layer.bias, bias)


def test_a_run_is_resumed_bit_equal_from_a_checkpoint_that_the_module_alone_loads(pl, tmp_path):
    def run(folder: str, seed: int, ckpt: Any = None) -> Any:
        torch.manual_seed(0)
        module, callback, _ = transformer_inside(pl, 1.0)
        torch.manual_seed(seed)
        saver = pl.ModelCheckpoint(tmp_path / folder, filename="{step}", every_n_train_steps=2, save_top_k=-1)
        options: dict[str, Any] = {"enable_checkpointing": True, "max_epochs": 2, "limit_train_batches": 2}
        fit(pl, module, callback, saver, ckpt=ckpt, **options)
        return weights(module), weights(callback.objective)

    whole, projection = run("whole", seed=1)
    file = tmp_path / "whole" / "step=2.ckpt"
    again, other = run("again", seed=2, ckpt=file)  # other projections, which the checkpoint must replace
    assert same(whole, again)
    assert same(projection, other)
    assert len(projection) == 2
    pl.LightningTransformer(TOKENS).load_state_dict(torch.load(file, weights_only=True)["state_dict"], strict=True)


def test_manual_optimization_raises(pl):
    callback = kd.DistillationCallback(nn.Linear(32, 2), kd.Objective(soft(1.0)), student="layer")
    with pytest.raises(ConfigError, match=r"ManualOptimBoringModel optimizes manually"):
        fit(pl, pl.ManualOptimBoringModel(), callback)


def test_a_student_that_runs_twice_in_a_step_raises(pl):
    """The transformer embeds inputs and targets by one module."""
    module = pl.LightningTransformer(TOKENS)
    callback = kd.DistillationCallback(nn.Embedding(TOKENS, 200), kd.Objective(soft(1.0)), student="model.embedding")
    with pytest.raises(ConfigError, match=r"ran the student \(Embedding\) 2 times.*exactly one forward pass"):
        fit(pl, module, callback)
    assert hooks_on(module) == 0


def test_a_teacher_with_more_inputs_than_the_batch_raises(pl):
    callback = kd.DistillationCallback(pl.SimpleLSTM(TOKENS), kd.Objective(soft(1.0)))
    with pytest.raises(DataError, match=r"SimpleLSTM.forward also requires hidden.*Adapter\(inputs=…\)"):
        fit(pl, pl.LightningLSTM(TOKENS), callback)


def test_a_module_of_one_package_in_a_trainer_of_the_other_raises_lightnings_own_error(pl):
    name = "pytorch_lightning" if "lightning.pytorch" in pl.Trainer.__module__ else "lightning.pytorch"
    other = pytest.importorskip(name)
    callback = kd.DistillationCallback(nn.Linear(32, 2), kd.Objective(soft(1.0)), student="layer")
    trainer = other.Trainer(callbacks=[callback], logger=False, enable_checkpointing=False, accelerator="cpu")
    with pytest.raises(TypeError, match="single import style"):
        trainer.fit(pl.BoringModel())
