"""`TappedModel` under `torch.compile`, and what happens to hooks that come too late."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kd_lightning.core.errors import AddressError
from kd_lightning.features import FeatureTap, TappedModel

ADDRESSES = {
    "bert": ["hidden.0", "hidden.2", "attention.2", "scores.1", "query.3", "classifier:in", "logits"],
    "albert": ["hidden.0", "hidden.2", "attention.3"],
    "llama": ["hidden.3", "attention.2", "key.1", "logits"],
    "deberta": ["hidden.1", "attention.2", "logits"],
    "t5": ["encoder.hidden.3", "decoder.attention.2", "logits"],
}


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()


class Graphs:
    """A backend that runs graphs as they are and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        self.count += 1
        return graph.forward


def step(model: nn.Module, batch: Any) -> tuple[dict[str, Tensor], list[Tensor]]:
    model.zero_grad()
    _, features = model(**batch)
    sum(feature.pow(2).mean() for feature in features.values()).backward()
    return features, [p.grad.clone() for p in model.parameters() if p.grad is not None]


def assert_compiles(model: nn.Module, batch: Any, addresses: list[str], backend: Any) -> None:
    tapped = TappedModel(model, addresses)
    features, gradients = step(tapped, batch)
    compiled = torch.compile(tapped, fullgraph=True, backend=backend)
    for _ in range(2):
        found, found_gradients = step(compiled, batch)
        assert list(found) == addresses
        for address in addresses:
            torch.testing.assert_close(found[address], features[address], atol=1e-5, rtol=1e-4)
        for one, other in zip(found_gradients, gradients, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["bert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("albert", "deberta", "llama", "t5"))]
)
def test_one_graph_with_the_same_features_and_gradients(families: dict[str, Any], name: str) -> None:
    graphs = Graphs()
    assert_compiles(families[name].build(), families[name].batch(), ADDRESSES[name], graphs)
    assert graphs.count == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_the_default_compiler_gives_the_same(families: dict[str, Any], name: str) -> None:
    assert_compiles(families[name].build(), families[name].batch(), ADDRESSES[name], "inductor")


def test_training_mode_compiles_too(families: dict[str, Any]) -> None:
    model = families["deberta"].build().train()
    tapped = torch.compile(TappedModel(model, ["attention.1", "hidden.2"]), fullgraph=True, backend="eager")
    _, features = tapped(**families["deberta"].batch())
    torch.testing.assert_close(features["attention.1"].sum(-1), torch.ones(2, 2, 7))


@pytest.mark.slow
def test_other_lengths_and_no_grad_do_not_break_it(bert: nn.Module, words: Any) -> None:
    tapped = TappedModel(bert, ["hidden.1", "attention.2"])
    compiled = torch.compile(tapped, fullgraph=True, backend="eager")
    for length in (7, 5):
        batch = {name: tensor[:, :length] for name, tensor in words.items()}
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                _, found = compiled(**batch)
                _, expected = tapped(**batch)
            for address in expected:
                torch.testing.assert_close(found[address], expected[address])


def test_hooks_put_on_after_a_compiled_call_are_missed_loudly(bert: nn.Module, words: Any) -> None:
    compiled = torch.compile(bert, backend="eager")
    compiled(**words)
    with FeatureTap(bert, ["hidden.1"]) as tap:
        compiled(**words)
        with pytest.raises(AddressError, match="compile a TappedModel instead"):
            tap.take()


def test_a_tap_on_a_compiled_model_works_if_it_comes_first(bert: nn.Module, words: Any) -> None:
    compiled = torch.compile(bert, backend="eager")
    with FeatureTap(compiled, ["hidden.1", "attention.1"]) as tap:
        compiled(**words)
        found = tap.take()
    with FeatureTap(bert, ["hidden.1", "attention.1"]) as tap:
        bert(**words)
        expected = tap.take()
    for address in expected:
        torch.testing.assert_close(found[address], expected[address])


def test_taking_the_tap_off_compiles_again(bert: nn.Module, words: Any) -> None:
    tapped = TappedModel(bert, ["hidden.1", "attention.1"])
    compiled = torch.compile(bert, backend="eager")
    expected = compiled(**words).logits
    tapped.close()
    torch.testing.assert_close(compiled(**words).logits, expected)
