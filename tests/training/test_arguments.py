"""Arguments of wrong types, shapes and values are named in one sentence, before the first step where they can be."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import kd_lightning as kd
from kd_lightning import losses, schedules
from kd_lightning.core.errors import KDError, MatchError, NonFiniteLossError
from kd_lightning.core.types import FeatureInfo
from kd_lightning.objective.projections import check_widths

from ..toys import mlp, pairs, ready, trainer

NAN, INF = float("nan"), float("inf")
LOGITS = kd.Match("logits", "logits")


def soft(weight: float = 1.0, **options: Any) -> kd.Objective:
    return kd.Objective({"soft": kd.Term(LOGITS, losses.SoftTarget(2.0), weight, **options)})


FRONT_DOOR: dict[str, tuple[Callable[[], Any], str]] = {
    "student": (lambda: kd.DistillationModule("bert", mlp(8), soft()), "`student` to be an nn.Module but got 'bert'"),
    "class": (lambda: kd.DistillationModule(nn.Linear, None, soft()), r"got the class Linear: write Linear\(\)"),
    "adapter": (lambda: kd.DistillationModule(mlp(8), mlp(8), soft(), adapter=3), r"`adapter` to be an Adapter\("),
    "teacher": (lambda: kd.LiveTeacher("bert"), "`teacher` to be an nn.Module but got 'bert'"),
    "callback": (lambda: kd.DistillationCallback("bert", soft()), "`teacher` to be an nn.Module but got 'bert'"),
    "path": (lambda: kd.DistillationCallback(mlp(8), soft(), student=3), "attribute path of a model.*got 3"),
    "term": (lambda: kd.Term("logits", nn.MSELoss()), r"a Match, such as Match\('logits', 'logits'\), got 'logits'"),
    "addresses": (lambda: kd.FeatureTap(mlp(8), None), r"list of strings, such as \['logits'\], but got None"),
    "address": (lambda: kd.TappedModel(mlp(8), [3]), r"but got \[3\]"),
    "projection": (lambda: kd.Term(LOGITS, nn.MSELoss(), projection=32), "Unknown projection 32. Choices: linear"),
    "typo": (lambda: kd.Term(LOGITS, nn.MSELoss(), projection="linaer"), "Closest: linear"),
    "export": (lambda: kd.export(None, "out"), "`module_or_checkpoint` of export to be a model or a path but got None"),
    "terms": (lambda: kd.Objective([kd.Term(LOGITS, nn.MSELoss())]), "terms by name, such as .* but got list"),
    "metric": (lambda: kd.DistillationModule(mlp(8), mlp(8), soft(), metrics={"a": max}), "metric 'a' to be a torchme"),
    "folder": (lambda: kd.export(mlp(8), None), "`path` of export to be a path but got None"),
}


@pytest.mark.parametrize("name", FRONT_DOOR)
def test_wrong_types_are_named(name: str) -> None:
    make, message = FRONT_DOOR[name]
    with pytest.raises(KDError, match=message):
        make()


NUMBERS: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
    "temperature": (lambda value: losses.SoftTarget(temperature=value), [0, -1]),
    "temperature of an ensemble": (lambda value: kd.EnsembleTeacher({"a": mlp(8)}, temperature=value), [0, -1]),
    "temperature of EMD": (lambda value: losses.EMD(losses.HiddenMSE(), temperature=value), [0, -1]),
    "label_smoothing": (lambda value: losses.HardLabel(value), [-1, 1]),
    "weight": (lambda value: kd.Term(LOGITS, nn.MSELoss(), weight=value), []),
    "weight of a scheme": (lambda value: kd.MatchScheme("hidden", nn.MSELoss(), weight=value), []),
    "every": (lambda value: kd.MatchScheme("hidden", nn.MSELoss(), every=value), [0, -1]),
    "projection_lr": (lambda value: kd.Term(LOGITS, nn.MSELoss(), projection_lr=value), [-1]),
    "task_weight": (lambda value: kd.DistillationCallback(mlp(8), soft(), task_weight=value), []),
    "weights of teachers": (lambda value: kd.EnsembleTeacher({"a": mlp(8)}, weights={"a": value}), [-1, 0]),
    "factor": (lambda value: schedules.Constant(value), []),
    "share": (lambda value: schedules.Warmup(value), [0, 2]),
    "beta": (lambda value: schedules.FLSW(beta=value), []),
    "gamma": (lambda value: schedules.FLSW(beta=1.0, gamma=value), [-1]),
    "floor": (lambda value: schedules.CWSM(beta=1.0, floor=value), [0, -1]),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_are_none_are_named(name: str) -> None:
    make, out_of_range = NUMBERS[name]
    make(0.5 if name != "every" else 2)
    for value in ["4", NAN, INF, -INF, True, [1], *out_of_range]:
        with pytest.raises(KDError, match=name.partition(" ")[0]):
            make(value)


@pytest.mark.parametrize(
    "loss",
    [
        *(nn.MSELoss(), nn.L1Loss(), nn.SmoothL1Loss(), nn.HuberLoss(), functional.mse_loss),
        *(partial(functional.huber_loss, delta=2.0), losses.ProbabilityShift(nn.MSELoss())),
    ],
    ids=["MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "mse_loss", "partial", "wrapped"],
)
def test_shapes_that_pytorch_would_broadcast_are_refused(loss: Any) -> None:
    term, batch = kd.Term(LOGITS, loss), {"labels": torch.zeros(4, dtype=torch.long)}
    assert torch.isfinite(term({"logits": torch.randn(4, 3)}, {"logits": torch.randn(4, 3)}, batch)[0])
    with pytest.raises(MatchError, match=r"\(4, 3\) from the student and \(4, 1\) as the target"):
        term({"logits": torch.randn(4, 3)}, {"logits": torch.randn(4, 1)}, batch)


@pytest.mark.parametrize("loss", [losses.HiddenMSE(), nn.MSELoss()], ids=str)
def test_a_list_of_layers_is_a_match_scheme(loss: Any) -> None:
    objective = kd.Objective({"h": kd.Term(kd.Match(["0", "1"], ["0", "1"]), loss)})
    with pytest.raises(MatchError, match=r"compares one feature with one.*MatchScheme"):
        kd.DistillationModule(mlp(8), mlp(8, seed=1), objective)


@pytest.mark.parametrize("loss", [losses.FSP(), losses.NST()], ids=str)
def test_a_pair_of_layers_needs_a_pair(loss: Any) -> None:
    objective = kd.Objective({"h": kd.Term(kd.Match(["0", "1"], ["0"]), loss)})
    with pytest.raises(MatchError, match="relates two layers of each model but got one feature from the teacher"):
        kd.DistillationModule(mlp(8), mlp(8, seed=1), objective)


def test_one_source_is_one_teacher_of_an_ensemble() -> None:
    teacher = kd.LiveTeacher(mlp(8))
    with pytest.raises(KDError, match="'a' and 'b' are one source"):
        kd.EnsembleTeacher({"a": teacher, "b": teacher})


def test_a_traced_model_cannot_be_tapped() -> None:
    traced = torch.jit.trace(mlp(8), pairs()[0])
    for given in ((traced, mlp(8)), (mlp(8), traced)):
        with pytest.raises(KDError, match=r"traced or scripted by torch\.jit"):
            kd.DistillationModule(*given, soft())


def test_a_label_that_is_no_class_is_named() -> None:
    for label in (-1, 3):
        with pytest.raises(MatchError, match=f"the label {label} in row 1, but the logits have 3 classes, 0 to 2"):
            losses.HardLabel()(torch.zeros(3, 3), torch.tensor([0, label, -100]))
    with pytest.raises(MatchError, match="the label 5 in row 1, token 0"):
        losses.HardLabel()(torch.zeros(2, 2, 3), torch.tensor([[0, 1], [5, -100]]))


def test_a_loss_without_gradient_is_an_error(tmp_path: Path) -> None:
    objective = kd.Objective({"dead": kd.Term(LOGITS, lambda s, t: (s.detach() - t).square().mean())})
    module = kd.DistillationModule(mlp(8), mlp(16, seed=1), objective)
    with pytest.raises(KDError, match="The loss of dead has no gradient"):
        trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(module, ready([pairs()]))


FACTORIES: dict[str, tuple[dict[str, Any], str]] = {
    "optimizer": ({"optimizer": lambda groups: None}, "`optimizer` returned None"),
    "scheduler": ({"scheduler": lambda optimizer: None}, "`scheduler` returned None"),
}


@pytest.mark.parametrize("name", FACTORIES)
def test_a_factory_that_returns_nothing_is_named(tmp_path: Path, name: str) -> None:
    options, message = FACTORIES[name]
    module = kd.DistillationModule(mlp(8), mlp(16, seed=1), soft(), **options)
    with pytest.raises(KDError, match=message):
        trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(module, ready([pairs()]))


def test_what_a_schedule_and_an_adapter_return_is_checked() -> None:
    with pytest.raises(KDError, match="must return a number but returned None"):
        kd.Term(LOGITS, nn.MSELoss(), schedule=lambda progress: None).weight_at(0.5)
    assert kd.Term(LOGITS, nn.MSELoss(), 2.0, schedule=lambda progress: torch.tensor(0.5)).weight_at(0.5) == 1.0
    module = kd.DistillationModule(mlp(8), mlp(16, seed=1), soft(), adapter=kd.Adapter(outputs=lambda out: out))
    with pytest.raises(KDError, match=r"Adapter\(outputs=…\) returned a Tensor, and must return a mapping"):
        module(pairs())


def broken(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        model[2].bias.fill_(NAN)
    return model


x, y = pairs()
SIDES: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "teacher": (lambda: (mlp(8), broken(mlp(16)), soft()), (x, y), "The teacher's 'logits' is not finite"),
    "batch": (lambda: (mlp(8), mlp(16), soft()), (x * NAN, y), "The batch is not finite itself, at '0'"),
    "schedule": (lambda: (mlp(8), mlp(16), soft(schedule=lambda _: NAN)), (x, y), "weight of 'soft' is nan"),
    "student": (lambda: (broken(mlp(8)), mlp(16), soft()), (x, y), "teacher and the batch are finite. Lower"),
}


@pytest.mark.parametrize("side", SIDES)
def test_a_loss_that_is_not_finite_names_the_side(tmp_path: Path, side: str) -> None:
    make, batch, message = SIDES[side]
    with pytest.raises(NonFiniteLossError, match=message):
        trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(kd.DistillationModule(*make()), ready([batch]))


def test_a_padded_vocabulary_and_a_model_without_layers_get_advice_of_their_own() -> None:
    with pytest.raises(MatchError, match=r"over 199 classes and the teacher's over 208.*resize_token_embeddings"):
        check_widths(None, [FeatureInfo("classes", 199)], [FeatureInfo("classes", 208)])
    scheme = kd.Objective({"h": kd.MatchScheme("hidden", nn.MSELoss())})
    with pytest.raises(KDError, match=r"no list of equal layers in this Sequential.*module paths"):
        kd.DistillationModule(mlp(8), mlp(8, seed=1), scheme)
