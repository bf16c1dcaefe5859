"""Taps before operations in place return what was there before, with its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers as tf
from torch import Tensor, nn

from kd_lightning.core.errors import AddressError
from kd_lightning.features import FeatureTap, TappedModel
from kd_lightning.features.inplace import overwrites


class Block(nn.Module):
    """A residual block as vision libraries write it; `add` and `relu` in place or not."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=inplace)
        self.adds_in_place = inplace

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self._residual(self.norm(self.conv(x)), x))

    def _residual(self, out: Tensor, x: Tensor) -> Tensor:
        if self.adds_in_place:
            out += x
            return out
        return out + x


class Functional(nn.Module):
    def __init__(self, relu: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(3), relu

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.norm(x)) * 2


class Method(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.norm(x)) * 2


def chain(inplace: bool) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(inplace), nn.Conv2d(3, 3, 1), nn.ReLU(inplace))


def blocks(inplace: bool) -> nn.Module:
    return nn.Sequential(Block(inplace), Block(inplace))


def twins(make: Callable[[bool], nn.Module]) -> list[nn.Module]:
    """The model in place, and the same weights out of place."""
    torch.manual_seed(0)
    models = [make(True), make(False)]
    models[1].load_state_dict(models[0].state_dict())
    return models


def features_and_gradients(model: nn.Module, addresses: list[str], compiled: bool) -> tuple[Any, Any]:
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    tapped = TappedModel(model.double(), addresses)
    run = torch.compile(tapped, fullgraph=True, backend="eager") if compiled else tapped
    output, features = run(x)
    (output.square().sum() + sum(f.square().sum() for f in features.values())).backward()
    return features, [p.grad for p in model.parameters()]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("make", "addresses"),
    [(chain, ["1", "2:in", "2", "3:in", "3", "4:in"]), (blocks, ["0.norm", "0.relu:in", "0", "1:in", "1.norm"])],
)
def test_values_and_gradients_are_those_of_the_model_out_of_place(make: Any, addresses: Any, compiled: bool) -> None:
    torch._dynamo.reset()
    (found, gradients), (expected, right) = (features_and_gradients(m, addresses, compiled) for m in twins(make))
    assert expected[addresses[1]].min() < 0  # before the activation
    for address in addresses:
        torch.testing.assert_close(found[address], expected[address])
    for one, other in zip(gradients, right, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_teacher_without_gradient_gives_the_same(context: Any) -> None:
    x, found = torch.randn(2, 3, 4, 4), []
    for model in twins(chain):
        with context(), FeatureTap(model.eval(), ["1", "4:in"]) as tap:
            model(x)
            found.append(tap.take())
    torch.testing.assert_close(found[0], found[1])


def test_hidden_states_of_a_list_of_blocks_are_what_the_next_block_is_given() -> None:
    class Listed(nn.Module):
        def __init__(self, inplace: bool) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.ReLU(inplace), nn.Conv2d(3, 3, 1)) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    found = []
    for model in twins(Listed):
        with FeatureTap(model, ["hidden.1", "hidden.2"]) as tap:
            model(torch.ones(1, 3, 2, 2) * 3)
            found.append(tap.take())
    torch.testing.assert_close(found[0], found[1])
    assert found[0]["hidden.1"].min() < 0


def test_code_of_a_forward_counts_too() -> None:
    x, model = torch.randn(2, 3, 4, 4), Method()
    with FeatureTap(model, ["norm"]) as tap:
        model(x)
        torch.testing.assert_close(tap.take()["norm"], model.norm(x))


def test_what_was_overwritten_unseen_is_an_error_that_names_address_and_fix() -> None:
    model = Functional(Tensor.relu_)
    with FeatureTap(model, ["norm"]) as tap:
        model(torch.randn(2, 3, 4, 4))
        with pytest.raises(AddressError, match=r"'norm' was overwritten in place.*F\.relu\(x\) for F\.relu_\(x\)"):
            tap.take()


def test_a_model_that_works_out_of_place_is_not_copied() -> None:
    model, seen = chain(False), []
    model[1].register_forward_hook(lambda module, args, output: seen.append(output))
    with FeatureTap(model, ["1"]) as tap:
        model(torch.randn(2, 3, 4, 4))
        assert tap.take()["1"] is seen[0]


def test_which_models_work_in_place(families: Any) -> None:
    residual = tf.ResNetModel(tf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))
    assert overwrites(residual)  # its layers have `hidden_state += residual`
    assert not any(overwrites(families[name].build()) for name in ("bert", "albert", "llama", "t5"))
    assert [overwrites(model) for model in (chain(True), chain(False), Functional(F.relu))] == [True, False, False]
