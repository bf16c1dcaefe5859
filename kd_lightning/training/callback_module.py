"""The user's module that a callback works on: found, checked, changed for a fit, and restored."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from torch import nn

from kd_lightning.core.errors import ConfigError, hint
from kd_lightning.training.callback_optimizer import ATTRIBUTE


def replace_method(owner: Any, name: str, function: Callable[..., Any]) -> Callable[[], None]:
    """Replace a method of one object, and return what restores it.

    Signature and docstring stay the method's, for callers that inspect them; other objects of the class keep theirs.

    Example:
        >>> class Greeter:
        ...     def greet(self): return "hello"
        >>> greeter = Greeter()
        >>> restore = replace_method(greeter, "greet", lambda: "bye")
        >>> greeter.greet()
        'bye'
        >>> restore()
        >>> greeter.greet()
        'hello'

    """
    own = owner.__dict__.get(name)
    object.__setattr__(owner, name, functools.wraps(getattr(owner, name))(function))

    def restore() -> None:
        if own is None:
            owner.__dict__.pop(name, None)
        else:
            object.__setattr__(owner, name, own)

    return restore


def hide_from_state_dict(module: nn.Module, name: str) -> Callable[[], None]:
    """Leave a submodule out of a module's `state_dict` and let strict loading pass without it; return what undoes it.

    Example:
        >>> module = nn.ModuleDict({"own": nn.Linear(1, 1), "added": nn.Linear(1, 1)})
        >>> undo = hide_from_state_dict(module, "added")
        >>> list(module.state_dict()), module.load_state_dict(module.state_dict())
        (['own.weight', 'own.bias'], <All keys matched successfully>)

    """

    def remove_keys(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        for key in [key for key in state if key.startswith(f"{prefix}{name}.")]:
            del state[key]

    def add_current_values(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        for key, value in module.get_submodule(name).state_dict().items():
            state.setdefault(f"{prefix}{name}.{key}", value)

    saving = module.register_state_dict_post_hook(remove_keys)
    loading = module.register_load_state_dict_pre_hook(add_current_values)

    def undo() -> None:
        saving.remove()
        loading.remove()

    return undo


def find_student(module: pl.LightningModule, path: str) -> nn.Module:
    """Return the model at an attribute path of a user's module; `""` is the module itself.

    Raises:
        ConfigError: if there is none.

    """
    try:
        found: Any = module
        for name in filter(None, path.split(".")):
            found = getattr(found, name)
    except AttributeError:
        found = None
    if isinstance(found, nn.Module):
        return found
    paths = [name for name, _ in module.named_modules() if name and name.count(".") < 2]
    raise ConfigError(f"{type(module).__name__} has no model at student='{path}'. {hint(path, paths)}")


def check_module(module: pl.LightningModule) -> None:
    """Refuse a module that optimizes manually, or has a callback already.

    Raises:
        ConfigError: with what to do instead.

    """
    name = type(module).__name__
    if not module.automatic_optimization:
        raise ConfigError(
            f"{name} optimizes manually (automatic_optimization=False), so there is no loss to add terms to. Call the "
            "objective in its training_step: objective(student_features, teacher(batch), batch).total."
        )
    if ATTRIBUTE in module._modules:
        raise ConfigError(f"{name} has a DistillationCallback already. Put all terms into one objective.")
