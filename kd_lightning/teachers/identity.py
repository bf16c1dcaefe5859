"""What decides a teacher's features, as hashes for fingerprints: the weights of models, the code of functions."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import io
import textwrap
from collections.abc import Mapping
from functools import partial
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.core.hashing import digest

NOT_SHAPING = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "_attn_implementation", "architectures"}
"""Entries of a Transformers configuration that do not change what a model computes."""


@torch.no_grad()
def weights_hash(model: nn.Module) -> str:
    """Return a hash of what a model computes with: structure, configuration, every parameter and buffer.

    Example:
        >>> one = nn.Linear(2, 2)
        >>> other = nn.Linear(2, 2)
        >>> weights_hash(one) == weights_hash(one), weights_hash(one) == weights_hash(other)
        (True, False)

    """
    config: Any = getattr(model, "config", None)
    settings = config.to_dict() if hasattr(config, "to_dict") else {}
    shaping = {key: value for key, value in settings.items() if key not in NOT_SHAPING}
    total = hashlib.sha256(digest(repr(model), shaping).encode())
    for name, value in sorted({**dict(model.named_buffers()), **model.state_dict()}.items()):
        if isinstance(value, Tensor) and not value.is_quantized:
            total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:  # packed weights of quantised layers, and what a module's `get_extra_state` gives
            total.update(f"{name} {type(value).__name__}".encode() + _saved(value))
    return total.hexdigest()[:16]


def _saved(value: Any) -> bytes:
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def function_identity(function: Any, depth: int = 2) -> str | None:
    """Return a function's qualified name and a hash of what it computes with, as far as that can be read.

    That is its source, or where there is none its bytecode, and the plain values, functions and models that it is bound
    to by a closure, defaults, `functools.partial` or an object. The module it is defined in makes no difference.

    Args:
        function: any callable; None gives None.
        depth: how many functions that are bound to functions are followed.

    Example:
        >>> def scaled(factor):
        ...     return lambda batch: factor * batch
        >>> function_identity(scaled(2)) == function_identity(scaled(2))
        True
        >>> function_identity(scaled(2)) == function_identity(scaled(3))
        False

    """
    if function is None:
        return None
    if isinstance(function, partial):
        inner = function_identity(function.func, depth)
        return f"partial({inner})#{digest(_settings([function.args, function.keywords], depth))}"
    owner = function if hasattr(function, "__qualname__") else type(function)  # else an object with __call__
    name = owner.__qualname__
    code: CodeType | None = getattr(owner, "__code__", None)
    try:
        source = textwrap.dedent(inspect.getsource(owner))
    except (OSError, TypeError):  # typed in a shell, or not written in Python
        source = code.co_code.hex() if code is not None else ""
    line = [code.co_names, _settings(code.co_consts, 0)] if code is not None and name.endswith("<lambda>") else []
    return f"{name}#{digest(source, line, _settings(_bound(function), depth))}"


def _bound(function: Any) -> dict[str, Any]:
    """Return the values that a callable carries along."""
    if inspect.isfunction(function):
        defaults = {"defaults": function.__defaults__, "keywords": function.__kwdefaults__}
        return {**inspect.getclosurevars(function).nonlocals, **defaults}
    holder = function.__self__ if inspect.ismethod(function) else function
    if isinstance(holder, nn.Module):
        return {"model": holder}
    if inspect.isroutine(holder) or inspect.isclass(holder) or not hasattr(holder, "__dict__"):
        return {}
    if dataclasses.is_dataclass(holder):
        return vars(holder)
    return {name: value for name, value in vars(holder).items() if callable(value)}  # the rest may change as it is used


def _settings(value: Any, depth: int) -> Any:
    """Return a value as JSON: models by their weights, functions by their identity, other objects by their class."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _settings(entry, depth) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_settings(entry, depth) for entry in value]
    if isinstance(value, nn.Module):
        return weights_hash(value)
    if callable(value):
        name = getattr(value, "__qualname__", type(value).__qualname__)
        return function_identity(value, depth - 1) if depth else name
    return type(value).__qualname__
