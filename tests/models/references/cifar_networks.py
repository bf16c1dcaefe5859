"""Compare networks for small images with those of mdistiller, and freeze figures of theirs.

Their code is not here: give the folder of a checkout of github.com/megvii-research/mdistiller, of which the files named
in NETWORKS are imported.

    python -m tests.models.references.cifar_networks CHECKOUT [--write]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import kd_lightning as kd
from kd_lightning import students

from .formula import images, set_weights

REPOSITORY = "megvii-research/mdistiller"
COMMIT = "e8c5bb331e78c9d79a8894ca233caae78531cf7f"
FOLDER = "mdistiller/models/cifar"
FIGURES = Path(__file__).with_suffix(".json")

NETWORKS: dict[str, tuple[str, Callable[[Any], nn.Module], Callable[[], nn.Module]]] = {
    "wrn16_1": ("wrn.py", lambda f: f.wrn_16_1(num_classes=5), lambda: students.wide_resnet(16, 1, 5)),
    "wrn40_2": ("wrn.py", lambda f: f.wrn_40_2(num_classes=5), lambda: students.wide_resnet(40, 2, 5)),
    "vgg8": ("vgg.py", lambda f: f.vgg8_bn(num_classes=5), lambda: students.vgg(8, 1, 5)),
    "vgg13": ("vgg.py", lambda f: f.vgg13_bn(num_classes=5), lambda: students.vgg(13, 1, 5)),
    "vgg16": ("vgg.py", lambda f: f.vgg16_bn(num_classes=5), lambda: students.vgg(16, 1, 5)),
    "mobilenet_v2": ("mobilenetv2.py", lambda f: f.mobile_half(5), lambda: students.mobilenet_v2(0.5, 5)),
    "shufflenet_v1": ("ShuffleNetv1.py", lambda f: f.ShuffleV1(num_classes=5), lambda: students.shufflenet_v1(1, 5)),
    "shufflenet_v2": ("ShuffleNetv2.py", lambda f: f.ShuffleV2(num_classes=5), lambda: students.shufflenet_v2(1, 5)),
    "resnet50": ("resnetv2.py", lambda f: f.ResNet50(num_classes=5), lambda: students.cifar_resnet50(1, 5)),
}
"""Their file, their network, ours. Tensors of the two state dicts come in the same order."""


def load(file: Path) -> Any:
    """Import one Python file."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def theirs(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Return what their network gives, under our addresses."""
    logits, found = model(x)
    stem, *stages = found["feats"]
    features = {"stem": stem} | {f"stages.{k}": stage for k, stage in enumerate(stages, start=1)}
    preacts = found.get("preact_feats", found["feats"])[1:]  # MobileNetV2 has none
    features |= {f"stages.{k}.preact": preact for k, preact in enumerate(preacts, start=1)}
    return features | {"pool": found["pooled_feat"], "head": logits}


def ours(model: nn.Module, x: Tensor, addresses: list[str]) -> dict[str, Tensor]:
    """Return what our network gives at addresses."""
    with kd.FeatureTap(model, addresses) as tap:
        model(x)
        return tap.take()


def differences(them: nn.Module, us: nn.Module) -> Iterator[tuple[str, float]]:
    """Yield the largest difference of each feature, in training too, and of the gradients of all weights."""
    for k, norm in enumerate(norms(them), start=1):
        found = us.get_submodule(f"stages.{k}.preact").norm
        yield f"norm {k}", difference(list(norm.parameters()), list(found.parameters()))
    for mode in ("eval", "train"):
        for model in (them, us):
            model.train(mode == "train").zero_grad()
        expected = theirs(them, images())
        found = ours(us, images(), list(expected))
        yield from ((f"{mode} {name}", difference([expected[name]], [found[name]])) for name in expected)
        for values in (expected, found):
            sum(value.square().mean() + value.sin().mean() for value in values.values()).backward()
        yield f"{mode} gradients", difference(*([p.grad for p in model.parameters()] for model in (them, us)))


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """Return the batch norms in front of the last ReLUs, of networks that know them."""
    try:
        return model.get_bn_before_relu()
    except (AttributeError, NotImplementedError):
        return []


def difference(one: list[Tensor], other: list[Tensor]) -> float:
    """Return the largest difference of two lists of tensors, relative to the largest value of all."""
    largest = max(a.abs().max().item() for a in one)
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True)) / largest


def figures(features: dict[str, Tensor]) -> dict[str, Any]:
    """Return the shape and the mean magnitude of each feature."""
    return {name: [list(value.shape), value.abs().mean().item()] for name, value in features.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    frozen: dict[str, Any] = {}
    for name, (file, build, own) in NETWORKS.items():
        them, us = set_weights(build(load(args.checkout / FOLDER / file))), set_weights(own())
        with torch.no_grad():
            found = theirs(them, images())
        source = f"{REPOSITORY}@{COMMIT[:8]} {FOLDER}/{file}"
        frozen[name] = {"source": source, "logits": found["head"][0].tolist(), "features": figures(found)}
        where, largest = max(differences(them, us), key=lambda pair: pair[1])
        print(f"{name}: {largest:.1e} at {where}")
    if args.write:
        rows = [f'"{name}": {json.dumps(row)}' for name, row in frozen.items()]
        FIGURES.write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
