"""Which module inside a layer attends, and how its map can be had."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from types import CodeType
from typing import Any

from torch import nn

from kd_lightning.features.modules import Node

_CROSS = ("cross", "enc", "multihead_attn")
_SELF = ("self_attn", "self_attention", "attn", "attention", "self")


def speaks_interface(module: nn.Module) -> bool:
    """Return whether a Transformers module looks its attention kernel up by name, in its config, when called."""
    return hasattr(module, "config") and "_attn_implementation" in _code(module).co_names


def own_eager(module: nn.Module) -> Callable[..., Any] | None:
    """Return the plain attention function that a module with the attention interface falls back on."""
    forward = _forward(module)
    names = [name for name in _code(module).co_names if name.endswith("eager_attention_forward")]
    return next((forward.__globals__[name] for name in names if name in forward.__globals__), None)


def special_kernel(module: nn.Module) -> str | None:
    """Return the name of a module's kernel if its forward compares it with that very name, and so depends on it."""
    config: Any = getattr(module.config, "kd_base", module.config)
    constants = _code(module).co_consts
    names = {*constants, *(name for group in constants if isinstance(group, tuple) for name in group)}
    return config._attn_implementation if config._attn_implementation in names - {None} else None


def takes_output_attentions(module: nn.Module) -> bool:
    """Return whether a module returns its map when called with `output_attentions=True`."""
    return "output_attentions" in inspect.signature(_forward(module)).parameters


def attends(module: nn.Module) -> bool:
    """Return whether there is a way to get a map out of this very module."""
    return isinstance(module, nn.MultiheadAttention) or speaks_interface(module) or takes_output_attentions(module)


def self_attention(layer: Node, nodes: Iterable[Node]) -> Node | None:
    """Return the module of self-attention inside a layer, or None if there is none or it cannot be told which."""
    inside = [node for node in nodes if f"{node.path}.".startswith(f"{layer.path}.")]
    found = _innermost([node for node in inside if attends(node.module)])
    found = [node for node in found if not _names(node, layer, _CROSS)] if len(found) > 1 else found
    if len(found) > 1:
        found = [node for node in found if node.path.rpartition(".")[2] in _SELF]
    return found[0] if len(found) == 1 else None


def _innermost(found: list[Node]) -> list[Node]:
    # A layer passes `output_attentions` down: the last one that takes it is the one that has the map.
    return [
        node
        for node in found
        if not any(other.path.startswith(f"{node.path}.") for other in found if other is not node)
    ]


def _names(node: Node, layer: Node, words: tuple[str, ...]) -> bool:
    relative = node.path[len(layer.path) :].lower()
    return any(word in relative for word in words)


def _forward(module: nn.Module) -> Any:
    return inspect.unwrap(type(module).forward)


def _code(module: nn.Module) -> CodeType:
    return getattr(_forward(module), "__code__", _no_code.__code__)


def _no_code() -> None:
    """Stand in for a forward that is not a Python function."""
