from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

import kd_lightning as kd
from kd_lightning.core.types import Batch, Features, ModelInfo
from kd_lightning.features import model_info

from ..toys import mlp, pairs, ready, trainer


class Lookup(kd.TeacherSource):
    """A source with the three members that every source must write, and no model behind them."""

    def __init__(self) -> None:
        self.calls = 0

    @property
    def info(self) -> ModelInfo:
        return model_info(mlp(5))

    def ask(self, addresses: Sequence[str]) -> None:
        self.addresses = addresses

    def __call__(self, batch: Batch) -> Features:
        self.calls += 1
        return {address: torch.ones(len(batch[0]), 3) for address in self.addresses}


def test_a_source_of_three_members_teaches(tmp_path):
    source = Lookup()
    objective = kd.Objective({"mse": kd.Term(kd.Match("logits", "logits"), nn.MSELoss())})
    module = kd.DistillationModule(mlp(2), source, objective)
    trainer(tmp_path, max_steps=2).fit(module, ready([pairs()] * 2))
    assert source.calls == 2
    assert source.addresses == ("logits",)
    assert source.to("cpu") is source
    assert list(source.models()) == []


def test_a_source_that_forgets_a_member_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (kd.TeacherSource,), {"ask": lambda self, addresses: None})()
