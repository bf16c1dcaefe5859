"""Notes of queries, keys and masks in Transformers modules that look their attention kernel up by name.

Only the addressed module gets a view of its config that names our function, which notes what the kernel receives and
calls the same kernel. The model's config stays as it is, so masks and all other layers stay too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from kd_lightning.features.hooks import Hook, Remover

KERNEL = "kd_lightning_tap"


class Noted(NamedTuple):
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


class Listener(Hook):
    """Notes the arguments of call number `wanted` of an attention kernel (any call, the last one staying, for 0)."""

    def __init__(self, record: Any, address: str, wanted: int = 0) -> None:
        super().__init__(record, address)
        self.wanted = wanted

    def hear(self, noted: Noted) -> None:
        """Take a note of one call."""
        if not self.wanted or self.record.call(self.address) == self.wanted:
            self.record.note(self.address, noted)


def listen(module: nn.Module, default: Callable[..., Any], listener: Listener) -> Remover:
    """Let a listener hear what a module's attention kernel is called with.

    Args:
        module: a module with the attention interface.
        default: the attention function the module falls back on under `eager`.
        listener: what takes the note.

    Returns:
        What to call to stop listening; the module gets its config back when nobody listens any more.

    """
    view: Any = module.config
    if not isinstance(view, ConfigView):
        _register()
        view = ConfigView(module.config)
        module.config = view
    view.kd_default = default
    view.kd_listeners.append(listener)
    return lambda: _stop(module, view, listener)


def tap_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """Stand in for an attention kernel: note what it is called with, then call it."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    view: Any = module.config
    kernel = view.kd_base._attn_implementation
    noted = Noted(module, query, key, value, attention_mask, kernel, options)
    for listener in view.kd_listeners:
        listener.hear(noted)
    function = ALL_ATTENTION_FUNCTIONS.get_interface(kernel, view.kd_default)
    return function(module, query, key, value, attention_mask, **options)


def _stop(module: nn.Module, view: ConfigView, listener: Listener) -> None:
    view.kd_listeners.remove(listener)
    if not view.kd_listeners and module.config is view:
        module.config = view.kd_base


def _register() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(KERNEL, tap_attention)


def _same(base: Any) -> Any:
    return base
