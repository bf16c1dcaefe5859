"""Fingerprints: equal for what computes the same, different for anything else, and without module paths."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import kd_lightning as kd
from kd_lightning.teachers.identity import function_identity, weights_hash


def model() -> nn.Sequential:
    made = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) / 8)
    return made


def test_the_fingerprint_of_a_teacher_without_adapter_is_that_of_the_first_version():
    """Caches that were built before must be found again: these texts were computed by the code of that time."""
    live = kd.TeacherCache.fingerprint_of(kd.LiveTeacher(model()), ["logits"], dtype="fp32", data="rows")
    assert str(live) == "edffc032d11b3ed0"
    teachers = {"a": kd.LiveTeacher(model()), "b": kd.LiveTeacher(model(), precision="bfloat16")}
    joint = kd.TeacherCache.fingerprint_of(kd.EnsembleTeacher(teachers), ["logits", "a/2"], dtype="fp32")
    assert str(joint) == "c211526779c84075"


def test_kinds_of_features_are_no_part_of_a_fingerprint():
    parts = kd.TeacherCache.fingerprint_of(model(), ["logits"]).parts
    assert sorted(parts) == ["addresses", "data", "dtype", "teacher", "top_k"]


def field(name: str) -> Callable[[Any], Any]:
    return lambda batch: batch[name]


def scaled(batch: Any, factor: float = 2.0) -> Any:
    return batch * factor


@dataclass
class Field:
    name: str

    def __call__(self, batch: Any) -> Any:
        return batch[self.name]


class Last:
    """Keeps the last batch, which is no part of what it computes."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function, self.batch = function, None

    def read(self, batch: Any) -> Any:
        self.batch = batch
        return self.function(batch)


def pictures(batch: Any) -> Any:
    return batch["pictures"]


DIFFERENT: list[tuple[Any, Any]] = [
    (field("x"), field("y")),
    (lambda batch: batch["x"], lambda batch: batch["y"]),
    (partial(scaled, factor=2.0), partial(scaled, factor=3.0)),
    (partial(max, key=len), partial(max, key=abs)),
    (Field("x"), Field("y")),
    (Last(field("x")).read, Last(field("y")).read),
    (Last(len).read, Last(abs).read),
    (pictures, scaled),
    (len, None),
    (nn.Linear(2, 2).forward, nn.Linear(2, 2).forward),
    (nn.Linear(2, 2), nn.Linear(2, 2)),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_functions_that_compute_something_else_differ(one, other):
    assert function_identity(one) == function_identity(one)
    assert function_identity(one) != function_identity(other)


def test_functions_that_compute_the_same_are_equal():
    assert function_identity(field("x")) == function_identity(field("x"))
    assert function_identity(Field("x")) == function_identity(Field("x"))
    used = Last(field("x"))
    used.read({"x": 1})
    assert function_identity(used.read) == function_identity(Last(field("x")).read)


def test_a_model_that_a_function_is_bound_to_counts_with_its_weights():
    def through(head: nn.Module) -> Callable[[Any], Any]:
        return lambda output: {"logits": head(output)}

    head = model()
    first = function_identity(through(head))
    assert function_identity(through(model())) == first
    with torch.no_grad():
        next(head.parameters()).zero_()
    assert function_identity(through(head)) != first


def test_a_function_that_calls_itself_has_an_identity():
    def walk(batch: Any) -> Any:
        return [walk(part) for part in batch] if isinstance(batch, list) else batch

    assert function_identity(walk) == function_identity(walk)


def test_the_module_of_a_function_makes_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code = "def image(batch):\n    return batch['image']\n"
    (tmp_path / "first_place.py").write_text(code)
    (tmp_path / "second_place.py").write_text("import os\n\n\n" + code)
    monkeypatch.syspath_prepend(tmp_path)
    teachers = [
        kd.LiveTeacher(model(), adapter=kd.Adapter(inputs=importlib.import_module(name).image))
        for name in ("first_place", "second_place")
    ]
    one, other = (kd.TeacherCache.fingerprint_of(teacher, ["logits"]) for teacher in teachers)
    assert one == other
    assert "place" not in str(one.parts)
    assert str(one.parts["teacher"]["adapter"]).startswith("['image#")


def test_a_function_without_source_is_known_by_its_bytecode():
    names: list[dict[str, Any]] = [{}, {}]
    exec("def made(batch):\n    return batch[0]", names[0])
    exec("def made(batch):\n    return batch + batch", names[1])
    one, other = (function_identity(space["made"]) for space in names)
    assert one is not None
    assert one.startswith("made#")
    assert one != other


class Shifted(nn.Module):
    """Keeps a buffer that is not saved, and counts its calls, which is no part of what it computes."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.inner, self.calls = model(), 0
        self.register_buffer("shift", torch.tensor([shift]), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.inner(x) + self.shift


def test_buffers_that_are_not_saved_count_too():
    used = Shifted()
    used(torch.zeros(1, 3))
    assert weights_hash(used) == weights_hash(Shifted()) != weights_hash(Shifted(shift=1.0))
