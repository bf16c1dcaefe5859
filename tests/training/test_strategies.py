"""Strategies: what runs in a training step, what is left afterwards, and what they refuse."""

from __future__ import annotations

import copy
import math
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

import kd_lightning as kd
from kd_lightning.core.errors import ConfigError
from kd_lightning.training.strategies import LayerDrop, LayerReplacement, Replacing, Theseus

from ..toys import OfAUser, bert, mlp, ready, trainer, words


def distilbert(layers: int, seed: int = 0) -> Any:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"dim": 16, "n_heads": 2, "hidden_dim": 32, "n_layers": layers}
    none: dict[str, Any] = {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
    config = DistilBertConfig(vocab_size=30, max_position_embeddings=16, num_labels=3, **sizes, **none)
    return DistilBertForSequenceClassification(config)


def electra(layers: int, seed: int = 0) -> Any:
    from transformers import ElectraConfig, ElectraForSequenceClassification

    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"hidden_size": 16, "embedding_size": 8, "num_attention_heads": 2, "intermediate_size": 32}
    none: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = ElectraConfig(vocab_size=30, num_hidden_layers=layers, num_labels=3, **sizes, **none)
    return ElectraForSequenceClassification(config)


def gpt2(layers: int, seed: int = 0) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    none: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=30, n_embd=16, n_head=2, n_layer=layers, n_positions=16, **none))


MODELS = {"bert": bert, "distilbert": distilbert, "electra": electra, "gpt2": gpt2}
PREDECESSORS, SUCCESSORS = Replacing(start=0.0, until=1.0, constant=True), Replacing(start=1.0)


def prepared(student: nn.Module, teacher: nn.Module, rate: Any = None, **options: Any) -> Theseus:
    strategy = Theseus(rate or PREDECESSORS, **options)
    strategy.prepare(student, kd.LiveTeacher(teacher))
    return strategy


def logits(model: Any) -> Tensor:
    return model(**{k: v for k, v in words().items() if k != "labels"}).logits


# -- Theseus -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("depths", [(2, 4), (3, 6), (2, 5), (4, 4)])
def test_all_of_the_teachers_layers_are_the_teacher_to_the_bit(build, depths):
    student, teacher = build(depths[0]), build(depths[1], seed=1).eval()
    expected = logits(teacher)
    strategy = prepared(student, teacher)
    with strategy.applied(0.0, seed=3):
        assert torch.equal(logits(student), expected)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_all_of_the_students_layers_are_the_student_to_the_bit(build):
    student, teacher = build(2), build(4, seed=1)
    strategy = prepared(student, teacher, SUCCESSORS)
    plain = logits(student)
    with strategy.applied(0.0, seed=3):
        assert torch.equal(logits(student), plain)
    assert not torch.equal(plain, logits(teacher.eval()))


class Chosen(Theseus):
    """Runs the student's layers that it is told to."""

    def __init__(self, runs: list[bool]) -> None:
        super().__init__()
        self.runs = runs

    def draw(self, progress: float, seed: int) -> list[bool]:
        return self.runs


def test_a_mixed_draw_is_a_network_of_both_models_layers():
    student, teacher = bert(2), bert(4, seed=1)
    strategy = Chosen([False, True])
    strategy.prepare(student, kd.LiveTeacher(teacher))
    by_hand = copy.deepcopy(teacher)
    by_hand.bert.encoder.layer = nn.ModuleList([*teacher.bert.encoder.layer[:2], student.bert.encoder.layer[1]])
    with strategy.applied(0.0, 0):
        found = logits(student)
    assert torch.equal(found, logits(by_hand.eval()))
    found.sum().backward()
    graded = {name for name, p in student.named_parameters() if p.grad is not None}
    assert graded
    assert all(name.startswith("bert.encoder.layer.1.") for name in graded)
    assert all(p.grad is None for p in teacher.parameters())


def test_afterwards_the_student_is_what_it_was_and_the_rest_is_the_teachers():
    student, teacher = bert(2), bert(4, seed=1)
    keys, before = list(student.state_dict()), copy.deepcopy(student.bert.encoder.state_dict())
    theirs = copy.deepcopy(teacher.state_dict())
    strategy = prepared(student, teacher)
    with strategy.applied(0.0, 0):
        assert "forward" in vars(student.bert.encoder.layer[0])
    assert not any("forward" in vars(module) for module in student.modules())
    assert list(student.state_dict()) == keys
    assert all(torch.equal(value, student.bert.encoder.state_dict()[key]) for key, value in before.items())
    assert all(torch.equal(value, teacher.state_dict()[key]) for key, value in theirs.items())
    for name, parameter in student.named_parameters():
        inside = ".layer." in name
        assert parameter.requires_grad == inside
        assert inside or torch.equal(parameter, teacher.get_parameter(name))
    trained = bert(2)
    prepared(trained, bert(4, seed=1), train_rest=True)
    assert all(p.requires_grad for p in trained.parameters())


def test_an_error_within_a_step_leaves_the_student_as_it_was():
    student = bert(2)
    strategy = prepared(student, bert(4, seed=1))
    with pytest.raises(RuntimeError, match="in the middle"), strategy.applied(0.0, 0):
        raise RuntimeError("in the middle")
    assert "forward" not in vars(student.bert.encoder.layer[0])


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_the_empirical_rate_is_the_probability(rate):
    student = bert(3)
    strategy = prepared(student, bert(6, seed=1), lambda progress: rate)
    draws = torch.tensor([strategy.draw(0.0, seed) for seed in range(10_000)], dtype=torch.float64)
    error = math.sqrt(rate * (1 - rate) / 10_000)
    assert ((draws.mean(0) - rate).abs() < 4 * error).all()
    together = (draws[:, 0] * draws[:, 1]).mean()  # layers are drawn independently of each other
    assert abs(together - rate**2) < 4 * math.sqrt(rate**2 * (1 - rate**2) / 10_000)


def test_a_draw_depends_on_the_seed_alone():
    one, other = prepared(bert(3), bert(6, seed=1), lambda _: 0.5), prepared(bert(3), bert(6, seed=1), lambda _: 0.5)
    torch.manual_seed(5)
    assert [one.draw(0.0, s) for s in range(50)] == [other.draw(0.9, s) for s in range(50)]
    assert len({tuple(one.draw(0.0, s)) for s in range(50)}) == 8


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (Replacing(0.3, 0.7), [0.3, 0.65, 1.0, 1.0]),
        (Replacing(0.5, 0.7, constant=True), [0.5, 0.5, 1.0, 1.0]),
        (Replacing(0.0, 1.0, constant=True), [0.0, 0.0, 0.0, 1.0]),
    ],
)
def test_schedules_of_the_paper(rate, expected):
    assert [rate(progress) for progress in (0.0, 0.35, 0.7, 1.0)] == pytest.approx(expected)


def test_a_bf16_teacher_with_taps_and_a_float32_chain():
    batch = words()
    alone = kd.LiveTeacher(bert(4, seed=1), precision="bfloat16")
    alone.ask(["attention.2", "hidden.4", "logits"])
    expected = alone(batch)
    teacher = kd.LiveTeacher(bert(4, seed=1), precision="bfloat16")
    terms = {
        "hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel()),
        "hidden": kd.Term(kd.Match("hidden.1", "hidden.2"), kd.losses.HiddenMSE()),
    }
    module = kd.DistillationModule(bert(2), teacher, kd.Objective(terms), strategy=Theseus(PREDECESSORS))
    teacher.ask(["attention.2", "hidden.2", "hidden.4", "logits"])
    assert module.strategy is not None
    with module.strategy.applied(0.0, 0):
        features = teacher(batch)
        report = module.compare(batch)
    assert torch.isfinite(report.total)
    assert all(torch.equal(features[address], value) for address, value in expected.items())


# -- in training -------------------------------------------------------------------------------------------------------


def module_of(strategy: Any, seed: int = 0, depth: int = 2, **options: Any) -> kd.DistillationModule:
    terms = {
        "hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel()),
        "soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=2.0)),
        "hidden": kd.Term(kd.Match("hidden.1", "hidden.2"), kd.losses.HiddenMSE()),
    }
    optimizer = partial(torch.optim.AdamW, lr=1e-2)
    student, teacher = bert(depth, seed=seed), bert(4, seed=1)
    return kd.DistillationModule(student, teacher, kd.Objective(terms), optimizer, strategy=strategy, **options)


STRATEGIES = {
    "theseus": lambda: Theseus(Replacing(0.5, 0.8)),
    "trained": lambda: Theseus(Replacing(0.5, 0.8), train_rest=True),
    "drop": lambda: LayerDrop(0.4),
}


@pytest.mark.parametrize("make", STRATEGIES.values(), ids=STRATEGIES)
def test_a_resumed_run_ends_like_one_never_stopped(make, tmp_path):
    pl.seed_everything(7, verbose=False)
    batches = [words(seed=i) for i in range(4)]
    whole, cut, resumed = module_of(make()), module_of(make()), module_of(make(), seed=5)
    trainer(tmp_path / "whole", max_epochs=3).fit(whole, ready(batches))
    save = ModelCheckpoint(tmp_path / "cut", save_top_k=-1, filename="{epoch}")
    options: dict[str, Any] = {"max_epochs": 3, "callbacks": [save], "enable_checkpointing": True}
    trainer(tmp_path / "cut", **options).fit(cut, ready(batches))
    start = tmp_path / "cut" / "epoch=0.ckpt"
    trainer(tmp_path / "resumed", max_epochs=3).fit(resumed, ready(batches), ckpt_path=start)
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())


def test_validation_and_export_see_the_plain_student(tmp_path):
    module = module_of(Theseus(PREDECESSORS))
    trainer(tmp_path, max_steps=2).fit(module, ready([words(seed=i) for i in range(2)]))
    assert module.strategy is not None
    plain = kd.load(kd.export(module, tmp_path / "student"))
    with torch.no_grad():
        assert torch.equal(logits(plain), logits(module.student.eval()))
    assert "forward" not in vars(module.student.bert.encoder.layer[0])
    assert sorted(module.state_dict()) == sorted(f"student.{key}" for key in module.student.state_dict())


def test_a_step_in_which_no_layer_ran_counts_and_changes_nothing(tmp_path):
    module = module_of(Theseus(PREDECESSORS))
    before = copy.deepcopy(module.student.state_dict())
    module._make_optimizer = partial(torch.optim.SGD, lr=0.1)
    runner = trainer(tmp_path, max_steps=2)
    runner.fit(module, ready([words(seed=i) for i in range(2)]))
    assert runner.global_step == 2
    assert all(torch.equal(value, module.student.state_dict()[key]) for key, value in before.items())


def test_progress_reaches_the_rate(tmp_path):
    seen: list[float] = []
    strategy = Theseus(lambda progress: seen.append(progress) or 1.0)
    trainer(tmp_path, max_steps=4).fit(module_of(strategy), ready([words(seed=i) for i in range(4)]))
    assert seen == [0.0, 0.25, 0.5, 0.75]


def test_the_callback_applies_a_strategy_and_restores_the_module(tmp_path):
    objective = kd.Objective({"soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget())})
    module, strategy = OfAUser(), Chosen([False, True])
    before = copy.deepcopy(module.model.state_dict())
    added = kd.DistillationCallback(bert(4, seed=1), objective, strategy=strategy)
    trainer(tmp_path, max_steps=2, callbacks=[added]).fit(module, ready([words(seed=i) for i in range(2)]))
    after = module.model.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    first = {key for key in changed if ".layer.0." in key}
    assert not first
    assert any(".layer.1." in key for key in changed)
    assert "forward" not in vars(module.model.bert.encoder.layer[0])


# -- LayerDrop and one's own -----------------------------------------------------------------------------------------


class Dropped(LayerDrop):
    def __init__(self, runs: list[bool]) -> None:
        super().__init__(0.5)
        self.runs = runs

    def draw(self, progress: float, seed: int) -> list[bool]:
        return self.runs


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_a_layer_that_is_dropped_hands_its_input_on(build):
    student = build(3)
    strategy = Dropped([True, False, True])
    strategy.prepare(student, None)
    with torch.no_grad(), kd.FeatureTap(student, ["hidden.1", "hidden.2", "hidden.3"]) as tap, strategy.applied(0.0, 0):
        logits(student)
        features = tap.take()
    assert torch.equal(features["hidden.1"], features["hidden.2"])
    assert not torch.equal(features["hidden.2"], features["hidden.3"])


class Linear(LayerDrop):
    """Stochastic depth with a rule of its own: the deeper a layer, the more often it is left out (1603.09382)."""

    def rates(self, progress: float, layers: int) -> list[float]:
        return [1 - self.rate * (k + 1) / layers for k in range(layers)]


def test_a_rule_of_ones_own():
    strategy = Linear(0.5)
    strategy.prepare(bert(4), None)
    draws = torch.tensor([strategy.draw(0.0, seed) for seed in range(10_000)], dtype=torch.float64).mean(0)
    expected = torch.tensor([0.875, 0.75, 0.625, 0.5], dtype=torch.float64)
    assert ((draws - expected).abs() < 4 * (expected * (1 - expected) / 10_000).sqrt()).all()


# -- what cannot work ------------------------------------------------------------------------------------------------


class Wrong(LayerReplacement):
    def rates(self, progress: float, layers: int) -> list[float]:
        return [2.0] * layers

    def replacement(self, index: int, own: Any) -> Any:
        return own


def albert() -> Any:
    from transformers import AlbertConfig, AlbertForSequenceClassification

    sizes: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "embedding_size": 8}
    return AlbertForSequenceClassification(AlbertConfig(vocab_size=30, num_hidden_layers=2, num_labels=3, **sizes))


@pytest.mark.parametrize(
    ("student", "teacher", "said"),
    [
        (lambda: bert(2, 24), lambda: kd.LiveTeacher(bert(4)), "as wide as its teacher"),
        (lambda: bert(4), lambda: kd.LiveTeacher(bert(2)), "more than the teacher's 2"),
        (lambda: distilbert(2), lambda: kd.LiveTeacher(bert(4)), "layers of one kind"),
        (albert, lambda: kd.LiveTeacher(albert()), "share modules"),
        (lambda: mlp(4), lambda: kd.LiveTeacher(mlp(4)), "0 stacks of layers|cannot be replaced"),
        (lambda: bert(2, labels=2), lambda: kd.LiveTeacher(bert(4)), "give both models one head"),
        (lambda: bert(2), lambda: None, "there is no teacher"),
        (lambda: bert(2), lambda: kd.EnsembleTeacher({"a": bert(4), "b": bert(4)}), "EnsembleTeacher, which runs 2"),
        (lambda: bert(2), kd.EMATeacher, "are the student's"),
    ],
)
def test_models_that_do_not_fit_are_refused(student, teacher, said):
    with pytest.raises(ConfigError, match=said):
        Theseus().prepare(student(), teacher())


def test_terms_within_layers_are_refused():
    terms = {"attention": kd.Term(kd.Match("attention.1", "attention.2"), kd.losses.AttentionMSE())}
    with pytest.raises(ConfigError, match=r"no 'attention\.1'"):
        kd.DistillationModule(bert(2), bert(4, seed=1), kd.Objective(terms), strategy=LayerDrop())


def test_a_compiled_student_is_refused():
    with pytest.raises(ConfigError, match="leave compile out"):
        module_of(LayerDrop(), compile=True)


@pytest.mark.parametrize("options", [{"modules": 5}, {"modules": [None]}, {"but": 3}, {"but": [""]}])
def test_paths_that_cannot_be(options):
    with pytest.raises(ConfigError, match=r"Expected argument `(modules|but)` of Freeze"):
        kd.strategies.Freeze(**options)


def test_theseus_trains_in_bfloat16_throughout(tmp_path):
    module = module_of(Theseus(PREDECESSORS, train_rest=True))
    trainer(tmp_path, max_epochs=1, precision="bf16-true").fit(module, ready([words()]))
    assert next(module.student.parameters()).dtype == torch.bfloat16


def test_what_is_no_strategy_is_refused():
    with pytest.raises(ConfigError, match="to be a Strategy"):
        module_of("theseus")


def test_several_tasks_are_refused():
    with pytest.raises(ConfigError, match="leave the strategy out"):
        kd.MultiTaskModule({"one": module_of(LayerDrop())})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LayerDrop(1.0), "in \\[0, 1\\)"),
        (lambda: LayerDrop("much"), "in \\[0, 1\\)"),
        (lambda: Replacing(start=1.5), "in \\[0, 1\\]"),
        (lambda: Replacing(until=0.0), "in \\(0, 1\\]"),
        (lambda: Theseus(rate=0.5), "function of progress"),
    ],
)
def test_numbers_that_cannot_be(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


def test_rates_that_cannot_be():
    strategy = Wrong()
    strategy.prepare(bert(2), None)
    with pytest.raises(ConfigError, match="a probability for each of 2 layers"):
        strategy.draw(0.0, 0)


def test_a_strategy_can_be_used_for_a_second_module(tmp_path: Path) -> None:
    strategy = Theseus(Replacing(0.5, 0.8))
    for _ in range(2):
        trainer(tmp_path, max_steps=1).fit(module_of(strategy), ready([words()]))
