"""Residual networks for small images: published sizes, a plain reference, addresses, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import kd_lightning as kd
from kd_lightning import students
from kd_lightning.core.errors import ConfigError
from kd_lightning.features import model_info
from kd_lightning.models.inspection import latency_ms

PUBLISHED = {  # depth: parameters with 100 classes (Tian et al. 2020, their code)
    8: 83_892,
    14: 181_108,
    20: 278_324,
    32: 472_756,
    44: 667_188,
    56: 861_620,
    110: 1_736_564,
}
WITH_TEN = {8: 78_042, 20: 272_474, 56: 855_770, 110: 1_730_714}
WIDE = {"resnet8x4": 1_233_540, "resnet32x4": 7_433_860}


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("depth", "classes", "count"),
    [(depth, 100, count) for depth, count in PUBLISHED.items()] + [(d, 10, count) for d, count in WITH_TEN.items()],
)
def test_parameters_are_as_many_as_published(depth: int, classes: int, count: int) -> None:
    with torch.device("meta"):
        assert size(students.cifar_resnet(depth, num_labels=classes)) == count


@pytest.mark.parametrize(("name", "count"), WIDE.items())
def test_wide_networks_have_the_published_parameters(name: str, count: int) -> None:
    with torch.device("meta"):
        assert size(getattr(students, name)(num_labels=100)) == count


def small(depth: int = 8, **options: Any) -> Any:
    """Return a narrow network in eval mode whose batch statistics are not those it is made with."""
    torch.manual_seed(0)
    model = students.cifar_resnet(depth, **({"width": 0.25, "num_labels": 5} | options))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


def images(rows: int = 2, size: int = 32) -> Tensor:
    return torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(1))


def reference(state: dict[str, Tensor], x: Tensor, blocks: int) -> dict[str, Tensor]:
    """He et al. 2016, section 4.2, from the weights alone: y = relu(F(x) + shortcut(x)), strides 1, 2, 2."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias)

    found = {"stem": norm(F.conv2d(x, state["stem.conv.weight"], padding=1), "stem.norm").relu()}
    x = found["stem"]
    for stage in (1, 2, 3):
        for block in range(blocks):
            name, stride = f"stages.{stage}.blocks.{block}", 2 if stage > 1 and block == 0 else 1
            inner = norm(F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.norm1").relu()
            inner = norm(F.conv2d(inner, state[f"{name}.conv2.weight"], padding=1), f"{name}.norm2")
            if f"{name}.shortcut.0.weight" in state:
                x = norm(F.conv2d(x, state[f"{name}.shortcut.0.weight"], stride=stride), f"{name}.shortcut.1")
            found[f"stages.{stage}.preact"] = inner + x
            x = found[f"stages.{stage}"] = (inner + x).relu()
    found["pool"] = x.mean((2, 3))
    return found | {"head": found["pool"] @ state["head.weight"].T + state["head.bias"]}


@pytest.mark.parametrize("options", [{}, {"depth": 14}, {"widths": [4, 8, 12, 16]}], ids=["8", "14", "widths"])
def test_every_address_gives_what_a_plain_reference_computes(options: dict[str, Any]) -> None:
    model, x = small(**options), images()
    expected = reference(model.state_dict(), x, blocks=2 if options.get("depth") == 14 else 1)
    with kd.FeatureTap(model, list(expected)) as tap, torch.no_grad():
        logits = model(pixel_values=x)
        found = tap.take()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(logits, expected["head"])
    assert (found["stages.1.preact"] < 0).any()


def test_stages_are_numbered_hidden_states_too() -> None:
    model = small()
    addresses = [f"hidden.{k}" for k in (1, 2, 3)], [f"stages.{k}" for k in (1, 2, 3)]
    with kd.FeatureTap(model, [*addresses[0], *addresses[1]]) as tap, torch.no_grad():
        model(images())
        found = tap.take()
    for hidden, stage in zip(*addresses, strict=True):
        assert torch.equal(found[hidden], found[stage])


def test_what_features_are_is_known_before_the_network_runs() -> None:
    info = model_info(small(widths=[4, 8, 12, 16]))
    assert [info.feature(f"stages.{k}").kind for k in (1, 2, 3)] == ["map"] * 3
    assert info.feature("stem").kind == "map"
    assert (info.width("stem"), info.width("head"), info.width("logits")) == (4, 5, 5)


def test_images_of_another_size_are_taken() -> None:
    assert small()(images(size=40)).shape == (2, 5)


def test_convolutions_start_by_kaimings_rule() -> None:
    """Standard deviation √(2 / (3 · 3 · out)), to a percent for 36,864 weights."""
    torch.manual_seed(0)
    weight = students.cifar_resnet(8).stages[2].blocks[0].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"depth": 9}, "6n \\+ 2 but got 9. Closest: 8, 14"),
        ({"depth": 2}, "6n \\+ 2 but got 2. Closest: 8"),
        ({"depth": 8, "width": 0.01}, "each at least 1"),
        ({"depth": 8, "widths": [4, 4, 8]}, "of three stages"),
    ],
)
def test_a_wrong_size_is_an_error(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        students.cifar_resnet(**arguments)


def test_an_exported_network_is_loaded_without_trust(tmp_path: Path) -> None:
    recipe = {
        "_target_": "kd_lightning.models.cifar_resnet", "depth": 8, "width": 0.25, "num_labels": 5,
        "task": "image-classification", "image_size": 32, "id2label": {0: "cat"},
    }  # fmt: skip
    model = small()
    loaded = kd.load(kd.export(model, tmp_path / "student", recipe=recipe))
    assert torch.equal(loaded(images()), model(images()))


def test_a_network_is_an_onnx_graph_without_an_example(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model, x = small(), images(rows=4)
    kd.export(model, tmp_path / "graph", format="onnx")
    session = onnxruntime.InferenceSession(tmp_path / "graph" / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"pixel_values": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model(x).detach(), atol=1e-4, rtol=1e-4)


def test_a_network_has_a_latency() -> None:
    example = kd.tasks.ImageClassificationTask("accuracy").example_input(small())  # type: ignore[attr-defined]
    assert latency_ms(small(), example, repeats=1) is not None
