"""A training step does not synchronise with the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import kd_lightning as kd
from kd_lightning.functional import chunks

from ..toys import bert, words

aten = torch.ops.aten

WAITS = {
    aten._local_scalar_dense.default,
    aten.is_nonzero.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
    aten.lift_fresh.default,  # a tensor made of Python numbers is copied to the device
}
"""Operations that synchronise with a GPU; the first is what `item()`, `bool()` and `float()` call."""


def waits(function: Any, args: tuple[Any, ...]) -> bool:
    """Tell whether an operation synchronises; boolean indices must be counted first."""
    if function in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return function in WAITS


class Waits(TorchDispatchMode):
    """Records operations that synchronise, outside of the models' own forward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inside_a_model = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if waits(func, args) and not self.inside_a_model:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))

    @contextmanager
    def leave_out(self, kind: type[nn.Module], patch: pytest.MonkeyPatch) -> Iterator[None]:
        """Leave out the forward pass of a class of models: Transformers reads masks in Python."""
        forward = kind.forward

        def left_out(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
            self.inside_a_model += 1
            try:
                return forward(model, *args, **kwargs)
            finally:
                self.inside_a_model -= 1

        with patch.context() as own:
            own.setattr(kind, "forward", left_out)
            yield


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.tensor([1.0, 2.0]),
    ],
    ids=["item", "bool", "mask", "nonzero", "from numbers"],
)
def test_operations_that_synchronise_are_recorded(function: Any) -> None:
    x = torch.ones(3)
    with Waits() as seen:
        function(x)
    assert seen.found


LAYERS = ("hidden.0", "hidden.1")


def terms(prefix: str = "") -> dict[str, Any]:
    own = kd.losses
    return {
        "soft": kd.Term(kd.Match("logits", "logits"), own.SoftTarget(temperature=2.0), weight=0.5),
        "annealed": kd.Term(
            kd.Match("logits", "logits"),
            own.SoftTarget(temperature=4.0, temperature_schedule=lambda progress: 1 - progress / 2),
            schedule=kd.schedules.Cosine(),
        ),
        "focal": kd.Term(kd.Match("logits", "logits"), own.SoftTarget(sample_temperature=kd.schedules.FLSW(beta=1.0))),
        "sure": kd.Term(kd.Match("logits", "logits"), own.SoftTarget(sample_temperature=kd.schedules.CWSM(beta=1.0))),
        "shift": kd.Term(kd.Match("logits", "logits"), own.ProbabilityShift(own.SoftTarget())),
        "mse": kd.Term(kd.Match("logits", "logits"), own.LogitMSE()),
        "hard": kd.Term(kd.Match("logits", "labels"), own.HardLabel()),
        "hidden": kd.Term(kd.Match("hidden.1", f"{prefix}hidden.2"), own.HiddenMSE(), projection="linear"),
        "cosine": kd.Term(kd.Match("hidden.2", f"{prefix}hidden.4"), own.HiddenCosine(), projection="tanh"),
        "pkd": kd.Term(kd.Match("hidden.2", f"{prefix}hidden.4"), own.PKD(), projection="linear"),
        "nst": kd.Term(kd.Match(LAYERS, tuple(f"{prefix}{layer}" for layer in LAYERS)), own.NST()),
        "fsp": kd.Term(kd.Match(LAYERS, tuple(f"{prefix}{a}" for a in LAYERS)), own.FSP(), projection="linear"),
        "attention": kd.Term(kd.Match("attention.1", f"{prefix}attention.2"), own.AttentionMSE()),
        "scores": kd.Term(kd.Match("scores.1", f"{prefix}scores.2"), own.AttentionKL(inputs="scores")),
        "relation": kd.Term(kd.Match("query.2", f"{prefix}query.4"), own.SelfRelation()),
        "emd": kd.MatchScheme("hidden", own.EMD(own.HiddenMSE()), layers="emd", projection="linear")
        if not prefix
        else None,
    }


def ensemble(**options: Any) -> kd.EnsembleTeacher:
    return kd.EnsembleTeacher({"a": bert(4, 24, seed=1), "b": bert(4, 24, seed=2)}, **options)


TEACHERS = {
    "live": (lambda: bert(4, 24, seed=1), ""),
    "means": (lambda: ensemble(), "a/"),
    "weights": (lambda: ensemble(weights={"a": 2, "b": 1}), "b/"),
    "confidence": (lambda: ensemble(weights="confidence", combine="probabilities", temperature=2.0), "a/"),
}


def made(teacher: str) -> kd.DistillationModule:
    build, prefix = TEACHERS[teacher]
    return kd.DistillationModule(bert(2, 16), build(), kd.Objective(terms(prefix)))


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("large", [False, True])
def test_comparing_two_models_does_not_synchronise(teacher: str, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if large:
        monkeypatch.setattr(chunks, "CHUNK", 50)
    module, batch = made(teacher), words()
    for _ in range(2):  # what is made once may be made in the first step
        with Waits() as seen, seen.leave_out(type(module.student), monkeypatch):
            module.compare(batch).total.backward()
    assert seen.found == []
