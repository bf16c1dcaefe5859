"""Keeping a guest out of its host's weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def keep_out_of_checkpoints(host: nn.Module, name: str) -> Callable[[], None]:
    """Hide a submodule from its host's `state_dict`, and let strict loading pass without it.

    Returns:
        What undoes it.

    Example:
        >>> host = nn.ModuleDict({"own": nn.Linear(1, 1), "guest": nn.Linear(1, 1)})
        >>> undo = keep_out_of_checkpoints(host, "guest")
        >>> list(host.state_dict()), host.load_state_dict(host.state_dict())
        (['own.weight', 'own.bias'], <All keys matched successfully>)

    """

    def hide(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        for key in [key for key in state if key.startswith(f"{prefix}{name}.")]:
            del state[key]

    def lend(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        guest = module._modules[name]
        assert guest is not None
        for key, value in guest.state_dict().items():
            state.setdefault(f"{prefix}{name}.{key}", value)

    hooks = [host.register_state_dict_post_hook(hide), host.register_load_state_dict_pre_hook(lend)]

    def undo() -> None:
        for hook in hooks:
            hook.remove()

    return undo
