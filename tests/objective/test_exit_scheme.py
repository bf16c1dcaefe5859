"""Exit schemes: one term per branch, whatever teaches them, and training with frozen parts."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kd_lightning as kd
from kd_lightning.core.errors import ConfigError, MatchError
from kd_lightning.features import model_info
from kd_lightning.models import early_exit
from kd_lightning.training.optim import parameter_groups
from kd_lightning.training.strategies import Freeze

from ..toys import Spy, bert, mlp, ready, same, trainer, weights, words


def exits(layers: int = 3, dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    return early_exit(bert(layers, dropout=dropout).config, exit_width=8)


def soft() -> kd.losses.SoftTarget:
    return kd.losses.SoftTarget(temperature=1.0)


def module_of(student: Any, teacher: Any = None, terms: Any = None, **options: Any) -> kd.DistillationModule:
    objective = kd.Objective(terms or {"exits": kd.ExitScheme(soft())})
    optimizer = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1)
    return kd.DistillationModule(student, teacher or kd.SelfTeacher(), objective, optimizer, **options)


# -- the scheme --------------------------------------------------------------------------------------------------------


def test_there_is_a_term_per_branch_with_a_loss_of_its_own():
    info = model_info(exits(4))
    objective = kd.Objective({"exits": kd.ExitScheme(soft(), weight=0.5, schedule=lambda progress: 1 - progress)})
    terms = objective.bind(info, info).named_terms()
    assert list(terms) == ["exits_1", "exits_2", "exits_3"]
    assert [str(term.match) for term in terms.values()] == [f"exit.{k} ← logits" for k in (1, 2, 3)]
    assert [term.weight_at(0.5) for term in terms.values()] == [0.25] * 3
    assert len({id(term.loss) for term in terms.values()}) == 3


def test_what_it_is_shown_as():
    loss = nn.MSELoss()
    assert repr(kd.ExitScheme(loss)) == "ExitScheme(MSELoss())"
    assert repr(kd.ExitScheme(loss, "labels", weight=0.1)) == "ExitScheme(MSELoss(), target='labels', weight=0.1)"
    shown = repr(kd.Objective({"exits": kd.ExitScheme(loss)}))
    assert "exits: ExitScheme(MSELoss())" in shown


def test_the_sum_is_that_of_the_paper():
    """Σ_k KL(p_last ‖ p_k), a mean over rows, without gradient to the last classifier."""
    student, batch = exits(4), words()
    module = module_of(student)
    with kd.FeatureTap(student, ["exit.1", "exit.2", "exit.3", "logits"]) as tap:
        student(**{k: x for k, x in batch.items() if k != "labels"})
        features = tap.take()
    target = features["logits"].detach()
    divergence = partial(nn.functional.kl_div, reduction="batchmean", log_target=True)
    parts = [divergence(features[f"exit.{k}"].log_softmax(-1), target.log_softmax(-1)) for k in (1, 2, 3)]
    total = module.compare(batch).total
    assert torch.allclose(total, sum(parts, start=total.new_zeros(())), atol=1e-6)
    total.backward()
    assert student.classifier.weight.grad is None


def test_labels_and_another_teacher_can_teach_the_branches():
    batch, student = words(), exits()
    by_labels = module_of(student, terms={"exits": kd.ExitScheme(kd.losses.HardLabel(), target="labels")})
    with kd.FeatureTap(student, ["exit.1", "exit.2"]) as tap:
        student(**{k: x for k, x in batch.items() if k != "labels"})
        features = tap.take()
    expected = [nn.functional.cross_entropy(features[f"exit.{k}"], batch["labels"]) for k in (1, 2)]
    parts = by_labels.compare(batch).parts
    assert torch.allclose(torch.stack([parts["exits_1"], parts["exits_2"]]), torch.stack(expected), atol=1e-6)
    by_teacher = module_of(student, bert(2, seed=3)).compare(batch)
    assert list(by_teacher.parts) == ["exits_1", "exits_2"]


def test_one_of_several_teachers():
    scheme = kd.ExitScheme(soft())
    assert [str(match) for _, match in scheme.taught_by("a").matches(1)] == ["exit.1 ← a/logits"]
    assert kd.ExitScheme(soft(), "labels").taught_by("a").target == "labels"
    peers = kd.MutualModule({"a": exits(), "b": exits()}, kd.Objective({"exits": scheme}))
    assert list(peers.peer("a").objective.named_terms()) == ["exits_b_1", "exits_b_2"]


@pytest.mark.parametrize("student", [lambda: bert(3), lambda: mlp(4)], ids=["bert", "mlp"])
def test_a_student_without_branches_is_refused_in_a_sentence(student):
    with pytest.raises(MatchError, match="'exits' needs a student with a branch behind every layer"):
        kd.Objective({"exits": kd.ExitScheme(soft())}).bind(model_info(student()), None)


def test_arguments_that_cannot_be():
    with pytest.raises(ConfigError, match="weight"):
        kd.ExitScheme(soft(), weight="much")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Term or a MatchScheme"):
        kd.Objective({"exits": soft()})  # type: ignore[dict-item]


# -- freezing ----------------------------------------------------------------------------------------------------------


def test_only_branches_are_trained_by_targets_without_dropout(tmp_path):
    student = exits(dropout=0.4)
    module = module_of(student, strategy=Freeze(but=["exit"]))
    before, batch = weights(student), words()
    inputs = {k: x for k, x in batch.items() if k != "labels"}
    seen: list[Tensor] = []
    student.classifier.register_forward_hook(lambda m, args, output: seen.append(output.detach()))
    modes: list[tuple[bool, bool]] = []
    look = Spy(lambda runner, m: modes.append((m.student.training, m.student.bert.training)))
    trainer(tmp_path, max_steps=3, callbacks=[look]).fit(module, ready([batch] * 3))
    assert modes == [(True, True)] * 3  # between steps all is as it was
    with torch.no_grad():
        expected = student.eval()(**inputs).logits
    assert len(seen) >= 3
    assert all(torch.equal(logits, expected) for logits in seen)
    changed = {name for name, x in weights(student).items() if not torch.equal(x, before[name])}
    assert changed
    assert all(name.startswith("exit.") for name in changed)


def test_a_backbone_is_trained_without_its_branches(tmp_path):
    student = exits()
    hard = {"hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel())}
    module = module_of(student, terms=hard, strategy=Freeze("exit"))
    before = weights(student)
    trainer(tmp_path, max_steps=1).fit(module, ready([words()]))
    inside = {name: x for name, x in before.items() if name.startswith("exit.")}
    after = weights(student)
    assert same(inside, {name: after[name] for name in inside})
    assert not torch.equal(after["classifier.weight"], before["classifier.weight"])
    with_gradient = [p for p in student.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in with_gradient)  # which is what DDP asks for
    groups = parameter_groups(student, module.objective)
    assert sum(len(group["params"]) for group in groups) == len(with_gradient)


def test_modes_are_restored_after_an_error_and_parts_within_parts_are_told_apart():
    student = exits()
    strategy = Freeze(["bert.encoder", "classifier"], but=["bert.encoder.layer.2"])
    strategy.prepare(student, None)
    trained = {name for name, p in student.named_parameters() if p.requires_grad}
    assert any(name.startswith("bert.encoder.layer.2.") for name in trained)
    assert any(name.startswith("bert.embeddings.") for name in trained)
    assert not any(name.startswith(("bert.encoder.layer.1.", "classifier.")) for name in trained)
    student.bert.encoder.layer[0].eval()
    modes = [module.training for module in student.modules()]
    with strategy.applied(0.0, 0):
        assert not student.bert.encoder.layer[1].training
        assert student.bert.encoder.layer[2].training
        assert student.bert.embeddings.training
    with pytest.raises(RuntimeError, match="in the middle"), strategy.applied(0.0, 0):
        raise RuntimeError("in the middle")
    assert [module.training for module in student.modules()] == modes


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        (Freeze(["bert.encodr"]), r"no module 'bert\.encodr'.*Closest: bert\.encoder"),
        (Freeze(but=["exits"]), r"no module 'exits'.*Closest: exit"),
        (Freeze(), "leaves nothing to train"),
    ],
)
def test_what_cannot_be_frozen(strategy, said):
    with pytest.raises(ConfigError, match=said):
        module_of(exits(), strategy=strategy)


def test_the_backbone_may_learn_too():
    """BYOT: labels and the last classifier teach all branches, and the last hidden state earlier ones."""
    terms = {
        "hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel()),
        "exits_hard": kd.ExitScheme(kd.losses.HardLabel(), target="labels", weight=0.7),
        "exits_soft": kd.ExitScheme(kd.losses.SoftTarget(temperature=3.0), weight=0.3),
        "hint": kd.Term(kd.Match("hidden.1", "hidden.3"), kd.losses.HiddenMSE(), weight=0.03),
    }
    student = exits()
    report = module_of(student, terms=terms).compare(words())
    assert list(report.parts) == ["hard", "exits_hard_1", "exits_hard_2", "exits_soft_1", "exits_soft_2", "hint"]
    report.total.backward()
    assert all(p.grad is not None for p in student.parameters())
