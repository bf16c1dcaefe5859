"""Compiled students and teachers: taps break no graph, and do not change a step's losses."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

import kd_lightning as kd

from ..toys import bert, words

ADDRESSES = ["hidden.0", "hidden.2", "attention.1", "attention.2", "logits"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trace as usual but generate no machine code; count graph breaks from zero."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    yield
    counters.clear()


def gpt2(layers: int, seed: int = 0) -> Any:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    torch.manual_seed(seed)
    sizes = {"vocab_size": 30, "n_embd": 16, "n_layer": layers, "n_head": 2, "n_positions": 16}
    return GPT2ForSequenceClassification(GPT2Config(**sizes, num_labels=3, pad_token_id=0))


def terms() -> dict[str, Any]:
    return {
        "logits": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=2.0)),
        "hidden": kd.Term(kd.Match("hidden.1", "hidden.2"), kd.losses.HiddenMSE()),
        "attention": kd.Term(kd.Match("attention.2", "attention.3"), kd.losses.AttentionMSE()),
    }


def batches() -> list[Any]:
    return [words(), words(rows=3, length=9, seed=1), words(seed=2)]


@pytest.mark.parametrize("build", [bert, pytest.param(gpt2, marks=pytest.mark.slow)], ids=["bert", "gpt2"])
def test_taps_break_no_graph_of_a_compiled_teacher(build: Any) -> None:
    model = build(2)
    plain, compiled = (kd.LiveTeacher(model, compile=compile) for compile in (False, True))
    for teacher in (plain, compiled):
        teacher.ask(ADDRESSES)
    for batch in batches():
        expected = plain(batch)
        found = compiled(batch)
        assert list(found) == ADDRESSES
        for address in ADDRESSES:
            torch.testing.assert_close(found[address], expected[address], atol=1e-5, rtol=1e-4)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] > 0
    compiled.close()


def test_taps_break_no_graph_of_a_compiled_student_and_its_teacher() -> None:
    plain, compiled = (
        kd.DistillationModule(
            bert(2), kd.LiveTeacher(bert(4, seed=1), compile=compile), kd.Objective(terms()), compile=compile
        )
        for compile in (False, True)
    )
    for batch in batches():
        values = []
        for module in (plain, compiled):
            module.zero_grad()
            report = module.compare(batch)
            report.total.backward()
            values.append((report.parts, [p.grad.clone() for p in module.parameters() if p.grad is not None]))
        torch.testing.assert_close(values[0], values[1], atol=1e-5, rtol=1e-4)
    compiled.close()
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] > 0


def test_a_graph_break_would_be_counted() -> None:
    class Breaks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch._dynamo.graph_break()
            return x + 1

    torch.compile(Breaks())(torch.ones(2))
    assert counters["graph_break"]


@pytest.mark.parametrize("compile", [False, True], ids=["plain", "compiled"])
def test_a_teacher_in_bfloat16_gives_nearly_the_losses_of_one_in_float32(compile: bool) -> None:
    student, batch = bert(2).train(), words()
    exact, short = (
        kd.DistillationModule(
            student, kd.LiveTeacher(bert(4, seed=1), precision, compile=compile), kd.Objective(terms())
        ).compare(batch)
        for precision in ("float32", "bfloat16")
    )
    for name, part in exact.parts.items():
        assert short.parts[name].dtype is torch.float32
        torch.testing.assert_close(short.parts[name], part, rtol=0.02, atol=1e-4)
    assert short.parts["hidden"] != exact.parts["hidden"]
