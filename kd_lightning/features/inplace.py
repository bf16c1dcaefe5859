"""Which models write into tensors that they have computed before, so that a captured feature would change.

`ReLU(inplace=True)` behind a batch norm overwrites the norm's output; so does `x += shortcut` in a residual block. A
tap on such a model copies what it captures. Text models of Transformers do not, and pay nothing.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from functools import cache
from types import CodeType, FunctionType
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from kd_lightning.features.structure import is_transformers_model, takes_images


def overwrites(model: nn.Module) -> bool:
    """Return whether modules of a model work in place, or their own code does, as far as it can be told.

    Example:
        >>> layers = [nn.BatchNorm2d(3), nn.ReLU(inplace=True)]
        >>> overwrites(nn.Sequential(*layers)), overwrites(nn.Sequential(layers[0]))
        (True, False)

    """
    if any(getattr(module, "inplace", False) is True for module in model.modules()):
        return True
    if is_transformers_model(model) and not takes_images(model):
        return False
    kinds: set[Any] = {type(module) for module in model.modules()}
    return any(_writes(kind) for kind in kinds)


@cache
def _writes(kind: type[nn.Module]) -> bool:
    """Tell whether a class's forward, or a method that it calls, has code such as `x += y` or `x.relu_()`."""
    return any(_writes_in(code) for code in _forward_code(kind))


def _forward_code(kind: type[nn.Module]) -> Iterator[CodeType]:
    names, seen = ["forward"], set()
    while names:
        name = names.pop()
        function = inspect.unwrap(getattr(kind, name, None))  # type: ignore[arg-type]
        if name in seen or not isinstance(function, FunctionType) or function.__module__.startswith("torch."):
            continue
        seen.add(name)
        names.extend(function.__code__.co_names)
        yield function.__code__


def _writes_in(code: CodeType) -> bool:
    names = {name for name in code.co_names if name.endswith("_") and not name.startswith("_")}
    keywords = {name for names in code.co_consts if isinstance(names, tuple) for name in names}
    if any(hasattr(Tensor, name) or hasattr(functional, name) for name in names) or "inplace" in keywords:
        return True
    return any(step.opname == "BINARY_OP" and step.argrepr.endswith("=") for step in dis.get_instructions(code))
