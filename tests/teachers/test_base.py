from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import kd_lightning as kd
from kd_lightning.core.errors import AddressError
from kd_lightning.core.types import Batch, FeatureInfo, Features, ModelInfo
from kd_lightning.teachers import DeclaredInfo

from ..toys import mlp, pairs, ready, trainer


class Table(kd.TeacherSource):
    """The source of the docstring of `TeacherSource`: three members, and no model behind them."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.calls = 0

    @property
    def info(self) -> ModelInfo:
        return DeclaredInfo({"logits": FeatureInfo("classes", self.logits.shape[1])})

    def ask(self, addresses: Sequence[str]) -> None:
        self.info.check(addresses)
        self.addresses = addresses

    def __call__(self, batch: Batch) -> Features:
        self.calls += 1
        ids = batch["sample_id"]
        return {"logits": self.logits.to(ids.device)[ids]}


def batches() -> list[dict[str, Tensor]]:
    x, _ = pairs(8)
    return [{"input": x[i : i + 4], "sample_id": torch.arange(i, i + 4)} for i in (0, 4)]


def objective(teacher: str = "logits") -> kd.Objective:
    return kd.Objective({"mse": kd.Term(kd.Match("logits", teacher), nn.MSELoss())})


def test_a_source_of_three_members_trains_a_student(tmp_path):
    source, data = Table(torch.rand(8, 3)), batches()
    module = kd.DistillationModule(mlp(2), source, objective())
    before = sum((module.student(b["input"]) - source(b)["logits"]).pow(2).sum() for b in data)
    source.calls = 0
    trainer(tmp_path, max_epochs=3).fit(module, ready(data))
    assert source.calls == 6
    assert source.addresses == ("logits",)
    assert sum((module.student(b["input"]) - source(b)["logits"]).pow(2).sum() for b in data) < before
    assert source.to("cpu") is source
    assert list(source.models()) == []


def test_what_a_source_declares_is_checked_at_setup():
    with pytest.raises(AddressError, match=r"does not hold 'hidden\.1'"):
        kd.DistillationModule(mlp(2), Table(torch.rand(8, 3)), objective("hidden.1"))
    term = kd.Term(kd.Match("logits", "logits"), nn.MSELoss(), projection="linear")
    module = kd.DistillationModule(mlp(2), Table(torch.rand(8, 5)), kd.Objective({"mse": term}))
    assert (5, 3) in {tuple(parameter.shape) for parameter in module.objective.parameters()}


def test_a_source_of_three_members_can_be_cached(tmp_path):
    source = Table(torch.rand(8, 3))
    cache = kd.TeacherCache.build(source, batches(), tmp_path / "c", ["logits"], trainer=trainer(tmp_path))
    assert cache.feature("logits") == FeatureInfo("classes", 3)


def test_exactly_three_members_are_abstract():
    assert kd.TeacherSource.__abstractmethods__ == {"info", "ask", "__call__"}
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (kd.TeacherSource,), {"ask": lambda self, addresses: None})()


def test_declared_features_name_what_there_is():
    features = {"hidden.1": FeatureInfo("tokens", 4), "a/logits": FeatureInfo("classes")}
    info = DeclaredInfo(features, {"": 2}, "The table")
    assert isinstance(info, ModelInfo)
    assert (info.layers(), info.width("hidden.1"), info.width("a/logits")) == (2, 4, None)
    with pytest.raises(AddressError, match=r"The table does not hold 'hiden\.1'\. Closest: hidden\.1"):
        info.check(["a/logits", "hiden.1"])
    with pytest.raises(AddressError, match=r"The table holds no layers of 'a/', only hidden\.1, a/logits"):
        info.layers("a/")
