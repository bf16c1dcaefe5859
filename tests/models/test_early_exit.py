"""Classifiers with early exits: their branches, files, and adaptive inference."""

from __future__ import annotations

import copy
import io
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, BertConfig, DistilBertConfig, ElectraConfig, LlamaConfig

import kd_lightning as kd
from kd_lightning.core.errors import ConfigError
from kd_lightning.models import early_exit, saved
from kd_lightning.models.adaptive import uncertainty
from kd_lightning.models.branch import Branch
from kd_lightning.models.early_exit import early_exit_class

from .. import processes
from ..toys import bert, hooks_on, trainer, words

SIZES: dict[str, Any] = {"vocab_size": 30, "max_position_embeddings": 16, "num_labels": 3}
BERT: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
CONFIGS: dict[str, Any] = {
    "bert": lambda: BertConfig(**SIZES, **BERT),
    "distilbert": lambda: DistilBertConfig(**SIZES, dim=16, n_heads=2, hidden_dim=32),
    "electra": lambda: ElectraConfig(**SIZES, **BERT, embedding_size=8),
}
KINDS = list(CONFIGS)
SPEED = 0.4


def exits(kind: str = "bert", layers: int = 4, seed: int = 0, **options: Any) -> Any:
    """Return a model whose rows leave at different layers at `SPEED`."""
    torch.manual_seed(seed)
    model: Any = early_exit(CONFIGS[kind](), num_hidden_layers=layers, **{"exit_width": 8, **options})
    model.eval()
    for branch in model.exit.values():
        _spread(branch.classifier, model)
    return model


@torch.no_grad()
def _spread(classifier: nn.Linear, model: Any) -> None:
    """Give logits of random rows the mean 0 and the deviation 2: some rows are sure then, and others not."""
    seen: list[Tensor] = []
    hook = classifier.register_forward_hook(lambda module, args, output: seen.append(output))
    model(**inputs(64, seed=9))
    hook.remove()
    scale = 2 / seen[0].std(0)
    classifier.bias.sub_(seen[0].mean(0)).mul_(scale)
    classifier.weight.mul_(scale[:, None])


def inputs(rows: int = 32, **options: Any) -> dict[str, Tensor]:
    return {name: x for name, x in words(rows, length=8, **options).items() if name != "labels"}


def row(batch: dict[str, Tensor], i: int) -> dict[str, Tensor]:
    return {name: x[i : i + 1] for name, x in batch.items()}


def branches(model: Any, batch: dict[str, Tensor]) -> list[Tensor]:
    """Return the logits of all branches and of the last classifier, of an ordinary pass."""
    addresses = [*(f"exit.{k}" for k in model.exit), "logits"]
    with torch.no_grad(), kd.FeatureTap(model, addresses) as tap:
        model(**batch)
        features = tap.take()
    return [features[address] for address in addresses]


@contextmanager
def counted(model: Any) -> Iterator[list[int]]:
    """Count how many rows each layer runs."""
    counts = [0] * len(model.layer_paths)
    with ExitStack() as hooks:
        for i, path in enumerate(model.layer_paths):

            def count(layer: nn.Module, args: Any, i: int = i) -> None:
                counts[i] += len(args[0])

            hooks.callback(model.get_submodule(path).register_forward_pre_hook(count).remove)
        yield counts


# -- branches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_branches_are_addresses_and_the_model_is_what_it_was(kind):
    model, batch = exits(kind), inputs(4)
    assert list(model.exit) == ["1", "2", "3"]
    *early, last = branches(model, batch)
    assert all(logits.shape == (4, 3) for logits in early)
    base = AutoModelForSequenceClassification.from_config(model.config).eval()
    base.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        assert torch.equal(base(**batch).logits, last)
        assert list(model(**batch)) == ["logits"]
        assert isinstance(model(**batch, return_dict=False), tuple)
    assert hooks_on(model) == 0
    with torch.no_grad():  # Transformers' own hooks stay
        assert len(model(**batch, output_hidden_states=True).hidden_states) == 5


def test_a_branch_learns_from_labels_and_from_hidden_states_of_its_layer():
    model, batch = exits(), inputs(4)
    with kd.FeatureTap(model, ["exit.2", "hidden.2"]) as tap:
        model(**batch)
        features = tap.take()
    expected = model.exit["2"](features["hidden.2"], batch["attention_mask"])
    assert torch.equal(features["exit.2"], expected)


@pytest.mark.parametrize("pool", ["first", "mean", "max"])
def test_padding_does_not_reach_a_branch(pool):
    torch.manual_seed(0)
    branch = Branch(6, 3, width=4, pool=pool).eval()
    hidden = torch.randn(2, 5, 6)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    garbage = hidden.masked_fill(mask[..., None] == 0, 1e4)
    assert torch.allclose(branch(hidden, mask), branch(garbage, mask), atol=1e-6)
    assert torch.allclose(branch(hidden, mask)[0], branch(hidden[:1, :3])[0], atol=1e-6)
    assert torch.isfinite(branch(hidden, torch.zeros_like(mask))).all()


def test_mean_and_max_are_over_tokens():
    branch, x = Branch(6, 3, width=4), torch.tensor([[[1.0, 8.0], [3.0, 2.0], [9.0, 9.0]]])
    real = torch.tensor([[True, True, False]])
    branch.pool = "mean"
    assert branch._pooled(x, real).tolist() == [[2.0, 5.0]]
    branch.pool = "max"
    assert branch._pooled(x, real).tolist() == [[3.0, 8.0]]


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_is_plain_for_transformers_and_has_branches_for_us(kind, tmp_path):
    model, batch = exits(kind, exit_pool="mean"), inputs(4)
    expected = branches(model, batch)
    folder = kd.export(model, tmp_path / "student")
    plain = AutoModelForSequenceClassification.from_pretrained(folder)
    assert type(plain).__name__ == type(model).__name__.removeprefix("EarlyExit")
    assert all(torch.equal(x, model.state_dict()[name]) for name, x in plain.state_dict().items())
    with torch.no_grad():
        assert torch.equal(plain(**batch).logits, expected[-1])
    opened: Any = kd.load(folder)
    assert type(opened) is type(model)
    assert all(torch.equal(one, other) for one, other in zip(branches(opened, batch), expected, strict=True))
    again: Any = saved(folder, num_labels=3)  # as a stage that goes on with it
    assert all(torch.equal(x, model.state_dict()[name]) for name, x in again.state_dict().items())
    assert not hasattr(saved(folder, task="token-classification", num_labels=5), "exit")


def test_other_labels_give_new_heads(tmp_path):
    exits().save_pretrained(tmp_path)
    other: Any = saved(tmp_path, num_labels=5)
    assert [tuple(logits.shape) for logits in branches(other.eval(), inputs(2))] == [(2, 5)] * 4


def test_branches_can_be_put_on_any_saved_classifier(tmp_path):
    bert(3).save_pretrained(tmp_path)
    made = early_exit_class(type(bert(3))).from_pretrained(tmp_path)
    assert list(made.exit) == ["1", "2"]
    assert all(torch.isfinite(p).all() for p in made.parameters())


FRESH = """
import pickle
import torch
import kd_lightning as kd

model = kd.load("student")
print(type(model).__name__, list(model.exit))
other = pickle.load(open("model.pkl", "rb"))
print(all(torch.equal(x, other.state_dict()[name]) for name, x in model.state_dict().items()))
"""


def test_a_checkpoint_of_a_module_is_exported_and_opened_in_a_fresh_process(tmp_path):
    model = exits(layers=3)
    objective = kd.Objective({"hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel())})
    runner = trainer(tmp_path)
    runner.strategy.connect(kd.DistillationModule(model, None, objective))
    runner.save_checkpoint(tmp_path / "last.ckpt")
    kd.export(tmp_path / "last.ckpt", tmp_path / "student")
    with (tmp_path / "model.pkl").open("wb") as file:
        pickle.dump(model, file)
    (tmp_path / "fresh.py").write_text(FRESH)
    done = processes.run([str(tmp_path / "fresh.py")], tmp_path, dict(os.environ), timeout=200)
    assert done.stdout.splitlines()[:2] == ["EarlyExitBertForSequenceClassification ['1', '2']", "True"], done.stderr


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "state"])
def test_copies_are_of_their_own(how):
    model, batch = exits(), inputs()
    expected, layers = branches(model, batch), model.adaptive(SPEED, **batch).layers
    if how == "deepcopy":
        other = copy.deepcopy(model)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(model))
    else:
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        file.seek(0)
        other = exits(seed=5)
        other.load_state_dict(torch.load(file, weights_only=True))
    assert all(torch.equal(one, two) for one, two in zip(branches(other, batch), expected, strict=True))
    assert torch.equal(other.adaptive(SPEED, **batch).layers, layers)
    with torch.no_grad():
        for branch in other.exit.values():  # uniform: no row is sure
            branch.classifier.weight.zero_()
            branch.classifier.bias.zero_()
    assert torch.equal(model.adaptive(SPEED, **batch).layers, layers)
    assert other.adaptive(1.0, **batch).layers.tolist() == [4] * 32


def test_layers_are_not_looked_for_in_a_pass(monkeypatch):
    model, batch = exits(), inputs(2)
    monkeypatch.setattr(
        sys.modules["kd_lightning.models.early_exit"], "find_stacks", lambda nodes: pytest.fail("searched")
    )
    model(**batch)
    model.adaptive(SPEED, **batch)


def test_it_starts_from_the_teachers_layers():
    teacher = bert(4)
    model: Any = early_exit(teacher, layers="uniform", num_labels=3, exit_width=8)
    theirs = teacher.state_dict()
    inside = {name: x for name, x in model.state_dict().items() if ".layer." in name}
    assert inside
    assert all(torch.equal(x, theirs[name]) for name, x in inside.items())
    assert hooks_on(model) == 0


def test_gradient_checkpointing_gives_the_same_gradients():
    def gradients(model: Any) -> list[Tensor]:
        with kd.FeatureTap(model, ["exit.1", "exit.2"]) as tap:
            model(**inputs(4))
            sum(x.square().sum() for x in tap.take().values()).backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    plain, saving = exits(layers=3).train(), exits(layers=3).train()
    for model in (plain, saving):
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    saving.gradient_checkpointing_enable()
    pairs = list(zip(gradients(plain), gradients(saving), strict=True))
    assert pairs
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in pairs)


# -- adaptive inference ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_runs_the_layers_up_to_its_exit_and_no_more(kind):
    model, batch = exits(kind), inputs(32)
    together = model.adaptive(SPEED, **batch)
    assert len(set(together.layers.tolist())) >= 3, together.layers
    with counted(model) as counts:
        model.adaptive(SPEED, **batch)
    assert counts == [int((together.layers > i).sum()) for i in range(4)]
    for i, layers in enumerate(together.layers.tolist()):
        with counted(model) as counts:
            alone = model.adaptive(SPEED, **row(batch, i))
        assert counts == [1] * layers + [0] * (4 - layers)
        assert alone.layers.tolist() == [layers]
        assert torch.allclose(alone.logits[0], together.logits[i], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 32])
def test_logits_are_those_of_the_pass_of_all_rows(kind, rows):
    model, batch = exits(kind), inputs(rows, seed=3)
    every = branches(model, batch)
    found = model.adaptive(SPEED, **batch)
    for i, layers in enumerate(found.layers.tolist()):
        assert torch.allclose(found.logits[i], every[layers - 1][i], atol=1e-5)
        assert all(uncertainty(every[k])[i] >= SPEED for k in range(layers - 1))
        assert layers == 4 or uncertainty(every[layers - 1])[i] < SPEED


@pytest.mark.parametrize("kind", KINDS)
def test_speed_0_is_the_whole_model_and_speed_1_the_first_branch(kind):
    model, batch = exits(kind), inputs(8)
    *early, last = branches(model, batch)
    none, all_left = model.adaptive(0.0, **batch), model.adaptive(1, **batch)
    assert torch.equal(none.logits, last)
    assert none.layers.tolist() == [4] * 8
    assert torch.allclose(all_left.logits, early[0], atol=1e-6)
    assert all_left.layers.tolist() == [1] * 8
    with torch.no_grad():
        model.exit["1"].classifier.weight.zero_()
        model.exit["1"].classifier.bias.fill_(0.3)  # exactly uniform
    assert model.adaptive(1.0, **batch).layers.tolist() == [2] * 8
    with torch.no_grad():
        model.exit["1"].classifier.bias[0] += 1e-5  # as good as uniform, in rounded numbers
    assert model.adaptive(1.0, **batch).layers.tolist() == [1] * 8


def test_padding_does_not_matter():
    model, batch = exits(), inputs(6)
    batch["attention_mask"][:] = 1
    batch["attention_mask"][1::2, 5:] = 0
    found = model.adaptive(SPEED, **batch)
    for i in range(6):
        length = int(batch["attention_mask"][i].sum())
        alone = model.adaptive(SPEED, **{name: x[:, :length] for name, x in row(batch, i).items()})
        assert alone.layers[0] == found.layers[i]
        assert torch.allclose(alone.logits[0], found.logits[i], atol=1e-5)
    longer = {name: nn.functional.pad(x, (0, 4)) for name, x in batch.items()}
    assert torch.equal(model.adaptive(SPEED, **longer).layers, found.layers)


def test_other_inputs_and_labels_go_along():
    model, batch = exits(), inputs(8)
    extra = {"token_type_ids": torch.ones_like(batch["input_ids"]), "labels": torch.zeros(8, dtype=torch.long)}
    assert model.adaptive(SPEED, **batch, **extra).logits.shape == (8, 3)
    assert model.adaptive(SPEED, input_ids=batch["input_ids"]).logits.shape == (8, 3)


def test_it_runs_in_eval_mode_and_leaves_nothing_behind():
    model, batch = exits(), inputs()
    expected = model.adaptive(SPEED, **batch)
    model.train()
    modes = [module.training for module in model.modules()]
    found = model.adaptive(SPEED, **batch)
    assert torch.equal(found.logits, expected.logits)
    assert not found.logits.requires_grad
    assert [module.training for module in model.modules()] == modes
    assert hooks_on(model) == 0
    with pytest.raises(IndexError):
        model.adaptive(SPEED, input_ids=torch.full((2, 8), 99))
    assert hooks_on(model) == 0


@pytest.mark.parametrize("speed", [-0.1, 1.1, "fast", float("nan"), None])
def test_speeds_that_cannot_be(speed):
    with pytest.raises(ConfigError, match=r"`speed` to be in \[0, 1\]"):
        exits().adaptive(speed, **inputs(2))


def test_no_inputs():
    with pytest.raises(ConfigError, match="by name"):
        exits().adaptive(0.5)


# -- what cannot be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "token-classification"}, "no exits for token-classification"),
        ({"problem_type": "regression"}, "no exits for regression"),
        ({"problem_type": "multi_label_classification"}, "no exits for multi label classification"),
        ({"num_labels": 1}, "not one of 1"),
        ({"num_hidden_layers": 1}, "several layers"),
        ({"exit_width": 7}, "'exit_width' is a whole number that 2 divides"),
        ({"exit_width": "wide"}, "'exit_width'"),
        ({"exit_pool": "last"}, "choose first, mean or max"),
    ],
)
def test_what_cannot_be_built(options, said):
    with pytest.raises(ConfigError, match=said):
        early_exit(CONFIGS["bert"](), **options)


def test_a_name_that_is_no_class():
    import kd_lightning.models.early_exit as module

    with pytest.raises(AttributeError, match="no attribute 'EarlyExitNothing'"):
        module.EarlyExitNothing  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        module.Nothing  # noqa: B018


def test_a_language_model_whose_head_looks_for_the_last_token_of_the_whole_batch():
    config = LlamaConfig(vocab_size=30, **BERT, num_hidden_layers=2, pad_token_id=0)
    with pytest.raises(ConfigError, match="llama is none"):
        early_exit(config)
