"""Networks for small images beside ResNets: published sizes, figures of others' code, addresses, batch norms, export.

`references/cifar_networks.json` holds what the networks of megvii-research/mdistiller give (commit e8c5bb33, folder
mdistiller/models/cifar) for the weights and images of `references/formula.py`.
"""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kd_lightning as kd
from kd_lightning import students
from kd_lightning.core.errors import ConfigError
from kd_lightning.features import model_info
from kd_lightning.models.cifar.resnet50 import BottleneckResNet
from kd_lightning.models.cifar.shufflenet_v1 import ShuffleNetV1
from kd_lightning.models.cifar.shufflenet_v2 import ShuffleNetV2

from .references.formula import images as formula_images
from .references.formula import set_weights

PUBLISHED: dict[
    str, tuple[Callable[[], nn.Module], int]
] = {  # parameters with 100 classes (Tian et al. 2020, their code)
    "wrn16_1": (lambda: students.wide_resnet(16, 1, 100), 180_916),
    "wrn16_2": (lambda: students.wide_resnet(16, 2, 100), 703_284),
    "wrn40_1": (lambda: students.wide_resnet(40, 1, 100), 569_780),
    "wrn40_2": (lambda: students.wide_resnet(40, 2, 100), 2_255_156),
    "vgg8": (lambda: students.vgg(8, 1, 100), 3_965_028),
    "vgg11": (lambda: students.vgg(11, 1, 100), 9_277_284),
    "vgg13": (lambda: students.vgg(13, 1, 100), 9_462_180),
    "vgg16": (lambda: students.vgg(16, 1, 100), 14_774_436),
    "vgg19": (lambda: students.vgg(19, 1, 100), 20_086_692),
    "mobilenet_v2": (lambda: students.mobilenet_v2(0.5, 100), 812_836),
    "shufflenet_v1": (lambda: students.shufflenet_v1(1, 100), 949_258),
    "shufflenet_v2": (lambda: students.shufflenet_v2(1, 100), 1_355_528),
    "resnet50": (lambda: students.cifar_resnet50(1, 100), 23_705_252),
}
FIGURES = json.loads((Path(__file__).parent / "references" / "cifar_networks.json").read_text())

RECIPES: dict[str, dict[str, Any]] = {  # narrow ones of each family
    "cifar_resnet": {"depth": 8, "width": 0.25},
    "wide_resnet": {"depth": 10, "width": 0.25},
    "vgg": {"depth": 13, "width": 1 / 16},
    "mobilenet_v2": {"width": 0.25},
    "shufflenet_v1": {"width": 0.2},
    "shufflenet_v2": {"width": 0.5},
    "cifar_resnet50": {"width": 1 / 16},
}
SHALLOW: dict[str, Callable[..., nn.Module]] = {  # where the builders' are deep
    "shufflenet_v1": partial(ShuffleNetV1, blocks=(2, 2, 2), widths=(48, 96, 192)),
    "shufflenet_v2": partial(ShuffleNetV2, blocks=(2, 2, 2), widths=(8, 16, 32, 24)),
    "cifar_resnet50": partial(BottleneckResNet, blocks=(1, 2, 1, 1), widths=(4, 4, 6, 8, 10)),
}
NORMS = {  # where the batch norm in front of the last ReLU of stage 2 is
    "cifar_resnet": "stages.2.blocks.0.norm2",
    "wide_resnet": "stages.3.blocks.0.norm1",
    "vgg": "stages.2.blocks.2.norm",
    "mobilenet_v2": "stages.2.blocks.2.norm3",
    "shufflenet_v1": "stages.2.blocks.1.norm3",
    "shufflenet_v2": None,
    "cifar_resnet50": "stages.2.blocks.1.norm3",
}
every_family = pytest.mark.parametrize("family", RECIPES)


def small(family: str, **options: Any) -> Any:
    """Return a narrow network in eval mode whose batch statistics are not those it is made with."""
    torch.manual_seed(0)
    build = SHALLOW.get(family) or partial(getattr(students, family), **RECIPES[family])
    model = build(num_labels=5, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


def images(rows: int = 2, size: int = 16) -> Tensor:
    return torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(1))


def addresses(model: Any) -> list[str]:
    numbers = range(1, len(model.stages) + 1)
    named = [name for k in numbers for name in (f"stages.{k}", f"stages.{k}.preact", f"hidden.{k}")]
    return ["stem", *named, "tail", "pool", "head", "logits"]


def take(model: nn.Module, x: Tensor, *addresses: str) -> dict[str, Tensor]:
    with kd.FeatureTap(model, addresses) as tap, torch.no_grad():
        model(x)
        return tap.take()


# -- published sizes, and figures of the networks that papers used ---------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name: str) -> None:
    build, count = PUBLISHED[name]
    with torch.device("meta"):
        assert sum(p.numel() for p in build().parameters()) == count


REFERENCES = {
    "wrn16_1": lambda: students.wide_resnet(16, 1, 5),
    "wrn40_2": lambda: students.wide_resnet(40, 2, 5),
    "vgg8": lambda: students.vgg(8, 1, 5),
    "vgg13": lambda: students.vgg(13, 1, 5),
    "vgg16": lambda: students.vgg(16, 1, 5),
    "mobilenet_v2": lambda: students.mobilenet_v2(0.5, 5),
    "shufflenet_v1": lambda: students.shufflenet_v1(1, 5),
    "shufflenet_v2": lambda: students.shufflenet_v2(1, 5),
    "resnet50": lambda: students.cifar_resnet50(1, 5),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_features_are_those_of_the_networks_of_others_with_the_same_weights(name: str) -> None:
    expected = FIGURES[name]
    model = set_weights(REFERENCES[name]())
    found = take(model, formula_images(), *expected["features"])
    assert {key: list(value.shape) for key, value in found.items()} == {
        key: shape for key, (shape, _) in expected["features"].items()
    }
    for key, (_, magnitude) in expected["features"].items():
        assert found[key].abs().mean().item() == pytest.approx(magnitude, rel=1e-9), key
    assert found["head"][0].tolist() == pytest.approx(expected["logits"], rel=1e-9, abs=1e-9)


def test_convolutions_start_by_kaimings_rule_and_heads_as_published() -> None:
    torch.manual_seed(0)
    model: Any = students.vgg(8)
    assert model.stages[2].blocks[1].conv.weight.std().item() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.02)
    assert model.head.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not model.head.bias.any()


# -- addresses ------------------------------------------------------------------------------------------------------


@every_family
def test_every_address_is_known_before_the_network_runs(family: str) -> None:
    model = small(family)
    info = model_info(model)
    found = take(model, images(), *addresses(model))
    for address, value in found.items():
        kind = {2: "vector", 4: "map"}[value.dim()] if address != "logits" else "classes"
        known = info.feature(address)
        assert known.kind in (kind, None) if address == "head" else known.kind == kind, (address, known)
        assert known.width == value.shape[1], address
    assert torch.equal(found["hidden.2"], found["stages.2"])


@every_family
def test_a_preactivation_is_what_goes_into_the_next_relu(family: str) -> None:
    model = small(family)
    for k in range(1, len(model.stages) + 1):
        stage, preact = take(model, images(), f"stages.{k}", f"stages.{k}.preact").values()
        assert (preact < 0).any()
        if family == "wide_resnet":
            torch.testing.assert_close(model.stages[k - 1].preact.norm(stage), preact)
        elif family == "mobilenet_v2":
            assert torch.equal(stage, preact)
        elif family == "shufflenet_v2":
            assert torch.equal(stage, nn.ChannelShuffle(2)(preact.relu()))
        else:
            assert torch.equal(stage, preact.relu())


@every_family
def test_no_relu_is_in_place(family: str) -> None:
    assert not [module for module in small(family).modules() if getattr(module, "inplace", False)]


# -- the batch norm of a preactivation -------------------------------------------------------------------------------


def norm_of(model: Any) -> nn.BatchNorm2d | None:
    return model.get_submodule("stages.2.preact").norm


@every_family
@pytest.mark.parametrize("copied", [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_preactivation_knows_the_batch_norm_of_its_own_network(family: str, copied: Callable[[Any], Any]) -> None:
    model = copied(small(family))
    place = NORMS[family]
    assert norm_of(model) is (None if place is None else model.get_submodule(place))
    if place is not None:
        width = take(model, images(), "stages.2.preact")["stages.2.preact"].shape[1]
        assert norm_of(model).num_features == width  # type: ignore[union-attr]


def test_a_preactivation_adds_nothing_to_its_network() -> None:
    preact = students.Preactivation(nn.BatchNorm2d(4))
    assert (list(preact.modules()), list(preact.parameters()), preact.state_dict()) == ([preact], [], {})
    x = images()
    assert preact(x) is x
    assert not [name for family in RECIPES for name in small(family).state_dict() if "preact" in name]


# -- what else networks are put through ------------------------------------------------------------------------------


@every_family
def test_one_image_gives_what_it_gives_among_others_in_any_precision(family: str) -> None:
    model, x = small(family), images()
    logits = model(pixel_values=x)
    torch.testing.assert_close(model(x[:1]), logits[:1], rtol=1e-4, atol=1e-5)
    half = model.bfloat16()(x.bfloat16())
    assert half.dtype is torch.bfloat16
    assert (half - logits).abs().max() < 0.05 * (1 + logits.abs().max())


@every_family
def test_a_network_is_one_graph(family: str) -> None:
    model, x = small(family), images()
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(x), model(x))


@every_family
def test_every_weight_is_trained(family: str) -> None:
    model = small(family, num_channels=1).train()
    model(images(4)[:, :1]).square().mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@every_family
def test_an_exported_network_is_loaded_without_trust(family: str, tmp_path: Path) -> None:
    recipe = {
        "_target_": f"kd_lightning.models.{family}", **RECIPES[family], "num_labels": 5,
        "task": "image-classification", "image_size": 32, "id2label": {0: "cat"},
    }  # fmt: skip
    model = getattr(students, family)(**RECIPES[family], num_labels=5).eval()
    loaded = kd.load(kd.export(model, tmp_path / "student", recipe=recipe))
    assert torch.equal(loaded(images()), model(images()))


@pytest.mark.parametrize(
    ("family", "arguments", "words"),
    [
        ("wide_resnet", {"depth": 18}, "6n \\+ 4 but got 18. Closest: 16, 22"),
        ("wide_resnet", {"depth": 4}, "6n \\+ 4 but got 4. Closest: 10"),
        ("wide_resnet", {"width": 0.01}, "leave channels in every stage"),
        ("vgg", {"depth": 12}, "one of 8, 11, 13, 16, 19 but got 12"),
        ("vgg", {"width": 0}, "leave channels in every stage"),
        ("mobilenet_v2", {"width": 0.01}, "at least 1/16"),
        ("shufflenet_v1", {"width": 0.33}, r"that 12 divides, but 0.33 gives \[79, 158, 317\]"),
        ("shufflenet_v1", {"width": 0.1}, "more than 24 channels"),
        ("shufflenet_v2", {"width": 0.75}, "one of 0.5, 1, 1.5, 2 but got 0.75"),
        ("cifar_resnet50", {"width": 0.001}, "leave channels in every stage"),
    ],
)
def test_a_wrong_size_is_an_error(family: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        getattr(students, family)(**(RECIPES[family] | arguments))


def test_a_wrong_option_is_an_error() -> None:
    with pytest.raises(TypeError, match="vocab_size"):
        students.vgg(8, vocab_size=30)
