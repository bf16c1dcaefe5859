"""Gradient checkpointing runs layers again during backward; the tap must not notice, and must not lose gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kd_lightning.core.errors import AddressError
from kd_lightning.features import FeatureTap

INSIDE = ["attention.2", "scores.1", "query.3", "bert.encoder.layer.1.intermediate"]
OUTSIDE = ["hidden.1", "hidden.3", "logits"]


def gradients(model: nn.Module, batch: Any, addresses: list[str], leave_first: bool = False) -> dict[str, Tensor]:
    model.zero_grad()
    tap = FeatureTap(model, addresses)
    with tap:
        model(**batch)
        loss = sum(feature.pow(2).mean() for feature in tap.take().values())
        if not leave_first:
            loss.backward()
    if leave_first:
        loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def recompute(model: nn.Module, use_reentrant: bool) -> None:
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": use_reentrant})


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.config.attention_probs_dropout_prob = 0.0
    return model.train()


@pytest.mark.parametrize("leave_first", [False, True])
def test_gradients_are_equal_with_recomputation(bert: nn.Module, words: Any, leave_first: bool) -> None:
    model = without_dropout(bert)
    expected = gradients(model, words, INSIDE + OUTSIDE)
    recompute(model, use_reentrant=False)
    found = gradients(model, words, INSIDE + OUTSIDE, leave_first)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], msg=lambda text: f"{name}: {text}")  # noqa: B023


@pytest.mark.parametrize("name", ["gpt2", "deberta", "llama", "vit"])
def test_gradients_are_equal_in_other_families(families: dict[str, Any], name: str) -> None:
    model, batch = without_dropout(families[name].build()), families[name].batch()
    addresses = ["hidden.1", "hidden.3", "attention.2"]
    expected = gradients(model, batch, addresses)
    recompute(model, use_reentrant=False)
    for parameter, gradient in gradients(model, batch, addresses).items():
        torch.testing.assert_close(gradient, expected[parameter], rtol=1e-4, atol=1e-5)


def test_recomputation_leaves_nothing_in_the_tap(bert: nn.Module, words: Any) -> None:
    recompute(bert.train(), use_reentrant=False)
    with FeatureTap(bert, INSIDE + OUTSIDE) as tap:
        bert(**words)
        sum(feature.mean() for feature in tap.take().values()).backward()
        with pytest.raises(AddressError, match="have been taken"):
            tap.take()


def test_layer_outputs_keep_their_gradient_under_reentrant_checkpointing(bert: nn.Module, words: Any) -> None:
    model = without_dropout(bert)
    expected = gradients(model, words, OUTSIDE)
    recompute(model, use_reentrant=True)
    model.enable_input_require_grads()
    for name, gradient in gradients(model, words, OUTSIDE).items():
        torch.testing.assert_close(gradient, expected[name])


@pytest.mark.parametrize("address", INSIDE)
def test_reentrant_checkpointing_is_named_where_it_takes_the_gradient(
    bert: nn.Module, words: Any, address: str
) -> None:
    recompute(bert.train(), use_reentrant=True)
    bert.enable_input_require_grads()
    with FeatureTap(bert, [address]) as tap:
        bert(**words)
        with pytest.raises(AddressError, match="use_reentrant=False"):
            tap.take()
    with torch.no_grad(), FeatureTap(bert, [address]) as tap:  # nobody wants a gradient here
        bert(**words)
        assert not tap.take()[address].requires_grad
    bert.eval()
    with FeatureTap(bert, [address]) as tap:
        bert(**words)
        assert tap.take()[address].requires_grad


def test_frozen_layers_have_no_gradient_and_no_complaint(bert: nn.Module, words: Any) -> None:
    bert.train().bert.embeddings.requires_grad_(False)
    with FeatureTap(bert, ["hidden.0", "hidden.1"]) as tap:
        bert(**words)
        features = tap.take()
    assert not features["hidden.0"].requires_grad
    assert features["hidden.1"].requires_grad


def test_a_plain_model_with_checkpoints_of_its_own() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return checkpoint(lambda y: self.second(y, y, y)[0], x, use_reentrant=False)

    model, x = Net().train(), torch.randn(2, 3, 4)
    with FeatureTap(model, ["second", "second:in"]) as tap:
        model(x)
        features = tap.take()
    features["second"].sum().backward()
    assert model.first.weight.grad.abs().sum() > 0
