"""Attention inside a layer: which module computes it, and how to collect what its map is made from.

There are three ways. A Transformers module that looks its kernel up by name, in its config, gets a view of that config
that names a function of ours: it records what the kernel receives and calls the same kernel. The model's config, all
masks and all other layers stay as they are. Other modules return their map, always or with
`output_attentions=True` (DeBERTa-v2, MPNet). Of an `nn.MultiheadAttention` the arguments are recorded: its own
`need_weights=True` gives the map after dropout and by another kernel.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from types import CodeType
from typing import Any, NamedTuple

from torch import Tensor, nn

from kd_lightning.features.hooks import Hook, Record, Remover, all_tensors
from kd_lightning.features.structure import Node

KERNEL = "kd_lightning_tap"

_CROSS = ("cross", "enc", "multihead_attn")
_SELF = ("self_attn", "self_attention", "attn", "attention", "self")


# -- which module computes attention -------------------------------------------------------------------------------


def has_attention_interface(module: nn.Module) -> bool:
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


def attends(module: nn.Module) -> bool:
    """Return whether an attention map can be read from this very module."""
    known = isinstance(module, nn.MultiheadAttention) or has_attention_interface(module)
    return known or _takes_output_attentions(module)


def self_attention(layer: Node, nodes: Iterable[Node]) -> Node | None:
    """Return the module of self-attention inside a layer, or None if there is none or it is ambiguous."""
    inside = [node for node in nodes if f"{node.path}.".startswith(f"{layer.path}.") and attends(node.module)]
    # A layer passes `output_attentions` down: the innermost module that takes it is the one that has the map.
    found = [node for node in inside if not any(other.path.startswith(f"{node.path}.") for other in inside)]
    if len(found) > 1:
        names = {node.path: node.path[len(layer.path) :].lower() for node in found}
        found = [node for node in found if not any(word in names[node.path] for word in _CROSS)]
    if len(found) > 1:
        found = [node for node in found if node.path.rpartition(".")[2] in _SELF]
    return found[0] if len(found) == 1 else None


def _takes_output_attentions(module: nn.Module) -> bool:
    return "output_attentions" in inspect.signature(_forward(module)).parameters


def _forward(module: nn.Module) -> Any:
    return inspect.unwrap(type(module).forward)


def _code(module: nn.Module) -> CodeType:
    return getattr(_forward(module), "__code__", _no_code.__code__)


def _no_code() -> None:
    """Stand in for a forward that is not a Python function."""


# -- modules with the attention interface --------------------------------------------------------------------------


class KernelCall(NamedTuple):
    """What an attention kernel was called with."""

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Any
    kernel: str
    options: dict[str, Any]


class ConfigView:
    """A module's config that names our kernel and is the module's own config in all else, also when copied."""

    _attn_implementation = KERNEL

    def __init__(self, base: Any) -> None:
        self.kd_base = base
        self.kd_listeners: list[Listener] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("kd_base", "kd_listeners"):
            raise AttributeError(name)
        return getattr(self.kd_base, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.kd_base, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return _same, (self.kd_base,)


def _same(base: Any) -> Any:
    return base


class Listener(Hook):
    """Collects call number `wanted` of an attention kernel (any call, of which the last counts, for 0)."""

    def __init__(self, record: Record, address: str, wanted: int = 0) -> None:
        super().__init__(record, address)
        self.wanted = wanted

    def hear(self, call: KernelCall) -> None:
        """Collect one call."""
        if not self.wanted or self.record.call(self.address) == self.wanted:
            self.record.collect(self.address, call)


def listen(module: nn.Module, default: Callable[..., Any], listener: Listener) -> Remover:
    """Let a listener hear what a module's attention kernel is called with.

    Args:
        module: a module with the attention interface.
        default: the attention function the module falls back on under `eager`.
        listener: collects the calls.

    Returns:
        What stops it; the module gets its config back with its last listener.

    """
    view: Any = module.config
    if not isinstance(view, ConfigView):
        from transformers import AttentionInterface

        AttentionInterface.register(KERNEL, tap_attention)
        view = ConfigView(module.config)
        module.config = view
    view.kd_default = default
    view.kd_listeners.append(listener)

    def stop() -> None:
        view.kd_listeners.remove(listener)
        current: Any = module.config
        if not view.kd_listeners and current is view:
            module.config = current.kd_base

    return stop


def tap_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """Stand in for an attention kernel: record what it is called with, then call it."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    view: Any = module.config
    kernel = view.kd_base._attn_implementation
    call = KernelCall(module, query, key, value, attention_mask, kernel, options)
    for listener in view.kd_listeners:
        listener.hear(call)
    function = ALL_ATTENTION_FUNCTIONS.get_interface(kernel, view.kd_default)
    return function(module, query, key, value, attention_mask, **options)


# -- modules that return their map ---------------------------------------------------------------------------------


class ReturnedMap(NamedTuple):
    """What a module returned as its map, and how many tokens its input had."""

    map: Tensor | None
    tokens: int


class RequestMap(Hook):
    """Pre-hook: sets `output_attentions=True` for this one module."""

    def __init__(self, record: Record, address: str, module: nn.Module) -> None:
        super().__init__(record, address)
        # Found here and not when called: `inspect` does not compile.
        names = inspect.signature(type(module).forward).parameters
        self.position = list(names).index("output_attentions") - 1

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the arguments with the request added."""
        if len(args) > self.position:
            return (*args[: self.position], True, *args[self.position + 1 :]), kwargs
        return args, {**kwargs, "output_attentions": True}


class DropoutCalls(Hook):
    """Hook on a dropout: keeps the inputs and outputs of its calls."""

    def __init__(self, record: Record, address: str) -> None:
        super().__init__(record, address)
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Keep one call."""
        self.calls.append((args[0], output))


class CollectMap(Hook):
    """Hook: collects the returned map, as it was before dropout."""

    def __init__(self, record: Record, address: str, dropout: DropoutCalls) -> None:
        super().__init__(record, address)
        self.dropout = dropout

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Collect the map."""
        tensors = list(all_tensors(output))
        probabilities = next((tensor for tensor in tensors if tensor.dim() == 4), None)
        for before, after in self.dropout.calls:
            if after is probabilities:
                probabilities = before
        self.dropout.calls.clear()
        self.record.collect(self.address, ReturnedMap(probabilities, tensors[0].shape[1]))


def request_map(module: nn.Module, record: Record, address: str, removers: list[Remover]) -> None:
    """Install hooks that collect a module's map, and one that requests it where it is not always returned."""
    dropout = DropoutCalls(record, address)
    for child in module.children():
        if isinstance(child, nn.Dropout):
            removers.append(child.register_forward_hook(dropout).remove)
    if _takes_output_attentions(module):
        removers.append(module.register_forward_pre_hook(RequestMap(record, address, module), with_kwargs=True).remove)
    removers.append(module.register_forward_hook(CollectMap(record, address, dropout)).remove)


# -- nn.MultiheadAttention -----------------------------------------------------------------------------------------

_ARGUMENTS = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask")


class MultiheadCall(NamedTuple):
    """One call of an `nn.MultiheadAttention`."""

    module: nn.MultiheadAttention
    arguments: dict[str, Any]


class CollectCall(Hook):
    """Pre-hook: collects the arguments of a call of `nn.MultiheadAttention`."""

    def __call__(self, module: nn.MultiheadAttention, args: Any, kwargs: dict[str, Any]) -> None:
        """Collect the arguments."""
        arguments = {**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs}
        self.record.collect(self.address, MultiheadCall(module, arguments))
