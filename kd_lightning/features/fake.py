"""A forward pass without numbers, for image models whose structure does not tell what a feature is.

Fake tensors have shapes and no values, so the pass takes a second at most and no memory. It runs on a copy of the
modules that shares the parameters: the model itself keeps its mode, buffers, hooks and attributes, and no random number
is drawn.
"""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import nn

from kd_lightning.core.errors import AddressError
from kd_lightning.core.types import FeatureInfo
from kd_lightning.features.addresses import layer_address
from kd_lightning.features.attention import attends
from kd_lightning.features.hooks import Record
from kd_lightning.features.probes import Probe
from kd_lightning.features.resolver import Resolver
from kd_lightning.features.structure import takes_images

ROWS = 2
"""Images in a fake batch: what does not have as many rows on its first axis has no axis over the batch."""

SIZES = (64, 32, 28, 224, 96, 16)
"""Heights and widths that are tried on a model whose config does not tell its own, one after the other."""

Shapes: TypeAlias = dict[str, tuple[int, ...]]


class FakePass:
    """What the features of an image model are, from the shapes they have for images of one size or two.

    Runs at the first question. Knows nothing of other models, nor of one that does not run on fake images.

    Args:
        model: any module, without wrappers.

    Example:
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.stem, self.pool = nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(nn.AvgPool2d(2), nn.Flatten())
        ...     def forward(self, pixel_values):
        ...         return self.pool(self.stem(pixel_values))
        >>> FakePass(Net()).feature("stem")
        FeatureInfo(kind='map', width=8, stack='')

    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def feature(self, address: str) -> FeatureInfo:
        """Return the kind and width of a feature, both None where shapes do not decide.

        Args:
            address: `hidden.k` under its shortest prefix, a field of the output, a module path or its `:in`.

        """
        found = [(size, shapes[address]) for size, shapes in self._passes if address in shapes]
        if len(found) == 2:
            return described_by_two(found[0][1], found[1][1])
        return described_by_one(found[0][1], found[0][0]) if found else FeatureInfo()

    @cached_property
    def _passes(self) -> list[tuple[int, Shapes]]:
        """The shapes at the first size that the model takes, and at twice that size where it takes that too."""
        if not takes_images(self._model):
            return []
        try:
            twin = Twin(self._model)
        except Exception:  # a module of the user's own that cannot be copied
            return []
        for size in _own_sizes(self._model):
            if one := twin.run(size):
                return [(size, one), *([(2 * size, twice)] if (twice := twin.run(2 * size)) else [])]
        return []


class Twin:
    """A copy of a model that shares its parameters, has no hooks but ours, and runs on fake images.

    Args:
        model: any module, without wrappers.
    """

    def __init__(self, model: nn.Module) -> None:
        memo: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
        tables = [
            table for module in model.modules() for name, table in vars(module).items() if name.endswith("_hooks")
        ]
        memo |= {id(table): OrderedDict() for table in tables}
        self._model = copy.deepcopy(model, memo)
        for module in self._model.modules():
            module.training = False
        self._record = Record()
        self._probes = dict(_probes(Resolver(self._model)))
        for probe in self._probes.values():
            probe.install(self._record, [])

    def run(self, size: int) -> Shapes:
        """Return the shape of every feature for square images; none where the model does not take them."""
        self._record.begin()
        try:
            self._forward(size)
        except Exception:  # whatever a model raises for a size that it does not take, or for tensors without values
            return {}
        self._record.end()
        return dict(self._read())

    def _forward(self, size: int) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode

        like = next((p for p in self._model.parameters() if p.is_floating_point()), torch.empty(0))
        quiet = warnings.catch_warnings(action="ignore")
        with quiet, torch.no_grad(), torch.random.fork_rng(devices=[]), FakeTensorMode(allow_non_fake_inputs=True):
            self._model(like.new_empty(ROWS, _channels(self._model), size, size))

    def _read(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        inner = _attention_paths(self._model)
        for address, value in self._record.values.items():
            try:
                shape = tuple(self._probes[address].finish(value).shape)
            except AddressError:  # no tensor, or a field that this output does not have
                continue
            inside = any(address.startswith(f"{path}.") for path in inner)
            if not (inside and len(shape) == 4):  # heads and attention maps look like feature maps
                yield address, shape


def described_by_two(one: tuple[int, ...], twice: tuple[int, ...]) -> FeatureInfo:
    """Return what a feature is that has one shape for images of some size and another for images twice as large.

    Example:
        >>> described_by_two((2, 8, 16, 16), (2, 8, 32, 32)), described_by_two((2, 16, 16, 8), (2, 32, 32, 8))
        (FeatureInfo(kind='map', width=8, stack=''), FeatureInfo(kind=None, width=None, stack=''))
        >>> described_by_two((2, 17, 8), (2, 65, 8)).kind, described_by_two((2, 4, 17, 17), (2, 4, 65, 65)).kind
        ('tokens', None)

    """
    same = [a == b for a, b in zip(one, twice, strict=False)]
    if len(one) != len(twice) or one[0] != ROWS or not same[0]:
        return FeatureInfo()
    if len(one) == 2:
        return FeatureInfo("vector", one[1] if same[1] else None)
    if len(one) == 3 and same[1:] == [False, True]:
        return FeatureInfo("tokens", one[2])
    grows = len(one) == 4 and all(a < b <= 3 * a for a, b in zip(one[2:], twice[2:], strict=True))  # of L tokens: 4 L
    pooled = one[2:] == twice[2:] == (1, 1)
    return FeatureInfo("map", one[1]) if len(one) == 4 and same[1] and (grows or pooled) else FeatureInfo()


def described_by_one(shape: tuple[int, ...], size: int) -> FeatureInfo:
    """Return what a feature is that has a shape for images of the one size that a model takes.

    Example:
        >>> described_by_one((2, 17, 24), 32), described_by_one((2, 24, 8, 8), 32)
        (FeatureInfo(kind='tokens', width=24, stack=''), FeatureInfo(kind='map', width=24, stack=''))
        >>> described_by_one((2, 8, 8, 8), 32).kind, described_by_one((2, 4, 17, 17), 32).kind
        (None, None)

    """
    if len(shape) not in (2, 3, 4) or shape[0] != ROWS:
        return FeatureInfo()
    if len(shape) == 2:
        return FeatureInfo("vector", shape[1])
    if len(shape) == 3:
        return (
            FeatureInfo("tokens", shape[2]) if _tiles(shape[1], size) and not _tiles(shape[2], size) else FeatureInfo()
        )
    channels, height, width = shape[1:]
    fits = height == width and size % height == 0 and channels != height
    return FeatureInfo("map", channels) if fits else FeatureInfo()


def _tiles(length: int, size: int) -> bool:
    """Tell whether so many tokens may be the patches of a square image, with up to two tokens in front."""
    squares = {(size // patch) ** 2 for patch in range(1, size + 1) if size % patch == 0}
    return any(length - prefix in squares for prefix in range(3))


def _probes(resolver: Resolver) -> Iterator[tuple[str, Probe]]:
    """Yield a probe for every feature whose collecting changes nothing in how a model computes."""
    addresses = [a for a in resolver.choices() if (layer := layer_address(a)) is None or layer.kind == "hidden"]
    for address in [*addresses, *(f"{path}:in" for path in resolver.nodes if path)]:
        try:
            yield address, resolver.probe(address)
        except AddressError:  # layers that cannot be addressed by number
            continue


def _attention_paths(model: nn.Module) -> list[str]:
    """Return the innermost modules that attend."""
    paths = [path for path, module in model.named_modules() if path and attends(module)]
    return [path for path in paths if not any(other.startswith(f"{path}.") for other in paths)]


def _own_sizes(model: nn.Module) -> tuple[int, ...]:
    size: Any = getattr(getattr(model, "config", None), "image_size", None)
    size = max(size) if isinstance(size, (list, tuple)) and size else size
    return (size,) if isinstance(size, int) else SIZES


def _channels(model: nn.Module) -> int:
    channels: Any = getattr(getattr(model, "config", None), "num_channels", None)
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    return channels if isinstance(channels, int) else 3 if first is None else first.in_channels
