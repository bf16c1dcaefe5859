"""Recipes: plain data that rebuild a model, `{"_target_": "package.builder", **arguments}`, as a YAML file has them."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from kd_lightning.core.errors import ConfigError, hint

KEYS = ("_target_", "_partial_", "_args_", "_convert_")
"""Keys of a recipe that are no arguments; `_convert_` changes nothing, because a recipe is plain data already."""

_TRUSTED_PREFIXES = ("kd_lightning.", "torch.nn.")


def build_recipe(recipe: Mapping[str, Any], trust: bool = True, source: str = "The recipe") -> nn.Module:
    """Build the model of a recipe; the program's random state is unchanged.

    Args:
        recipe: `_target_` is the dotted name of a class or function, all else its arguments, nested recipes too.
            `_partial_: true` makes a `functools.partial`, `_args_` are positional arguments.
        trust: whether any target may be imported; otherwise only models of `torch.nn` and `kd_lightning`.
        source: what the recipe is, to begin an error message.

    Raises:
        ConfigError: if the recipe is malformed or untrusted, a name cannot be resolved, building raises an error, or
            the result is not a module.

    Example:
        >>> build_recipe({"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3})
        Linear(in_features=2, out_features=3, bias=True)

    """
    if not isinstance(recipe, Mapping) or "_target_" not in recipe:
        raise ConfigError(f"{source} must be a mapping with `_target_`, the dotted name of what builds the model.")
    if not trust:
        for name in _targets(recipe):
            _check_trusted(name, source)
    with isolate_rng(include_cuda=torch.cuda.is_initialized()):
        try:
            made = _build(recipe)
        except ConfigError as error:
            raise ConfigError(f"{source} cannot be built: {error}") from error
        except Exception as error:  # a builder of the user's own may raise anything
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ConfigError(f"{source} cannot be built: {recipe['_target_']} raised {reason}") from error
    if not isinstance(made, nn.Module):
        kind = type(made).__name__
        raise ConfigError(f"{source} must build a torch.nn.Module, but {recipe['_target_']} returned a {kind}.")
    return made


def rebuild(
    recipe: Mapping[str, Any], state: Mapping[str, Tensor], trust: bool = True, source: str = "The recipe"
) -> nn.Module:
    """Build the model of a recipe with the values and dtypes of a state dict, in eval mode.

    Raises:
        ConfigError: as `build_recipe`, or if names or shapes of the state dict are not the model's.

    """
    model = build_recipe(recipe, trust, source)
    own = model.state_dict(keep_vars=True)
    if problem := difference(own, state):
        raise ConfigError(f"{source} builds a {type(model).__name__} that the weights do not fit: {problem}.")
    for name, tensor in own.items():  # in place, so that tied tensors stay tied
        tensor.data = tensor.data.to(state[name].dtype)
    model.load_state_dict(dict(state))
    return model.eval()


def difference(model: Mapping[str, Any], state: Mapping[str, Tensor]) -> str | None:
    """Return the first difference in names and shapes between a model's state dict and another one, None if equal.

    Example:
        >>> difference({"weight": torch.ones(2)}, {"weight": torch.ones(3)})
        "'weight' is [3], but [2] in the model"

    """
    for name in model:
        if name not in state:
            return f"'{name}' is missing in the weights"
    for name, tensor in state.items():
        if name not in model:
            return f"the model has no '{name}'"
        if not isinstance(model[name], Tensor):
            return f"'{name}' is no tensor in the model"
        if model[name].shape != tensor.shape:
            return f"'{name}' is {list(tensor.shape)}, but {list(model[name].shape)} in the model"
    return None


def _build(node: Any) -> Any:
    if isinstance(node, (list, tuple)):
        return [_build(value) for value in node]
    if not isinstance(node, Mapping):
        return node
    if "_target_" not in node:
        return {key: _build(value) for key, value in node.items()}
    unknown = [key for key in node if str(key).startswith("_") and str(key).endswith("_") and key not in KEYS]
    if unknown:
        raise ConfigError(f"a recipe has no key '{unknown[0]}'. {hint(str(unknown[0]), KEYS)}")
    target, args = resolve(node["_target_"]), _build(node.get("_args_", []))
    arguments = {key: _build(value) for key, value in node.items() if key not in KEYS}
    if node.get("_partial_"):
        return functools.partial(target, *args, **arguments)
    return target(*args, **arguments)


def resolve(name: str) -> Any:
    """Return the object of a dotted name, such as `torch.nn.Linear`.

    Raises:
        ConfigError: if it is no dotted name, or something in it cannot be imported.

    """
    parts = name.split(".") if isinstance(name, str) else []
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ConfigError(f"`_target_` must be a dotted name, such as package.module.Class, got {name!r}.")
    path, found = parts[0], _import(parts[0], name)
    for part in parts[1:]:
        path = f"{path}.{part}"
        if not hasattr(found, part):
            if not inspect.ismodule(found) or importlib.util.find_spec(path) is None:
                raise ConfigError(f"'{path.rpartition('.')[0]}' has no '{part}'. {hint(part, _public(found))}")
            _import(path, name)
        found = getattr(found, part)  # an attribute first: a package's function may have the name of its module
    return found


def _import(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"cannot import '{module}' of '{name}': {error}") from error


def _public(found: Any) -> list[str]:
    return [name for name in dir(found) if not name.startswith("_")]


def _targets(node: Any) -> Iterator[Any]:
    """Yield every `_target_` in a recipe."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _targets(value)


def _check_trusted(name: Any, source: str) -> None:
    """Refuse everything but models of our own and of PyTorch, without importing anything else.

    A name below `torch.nn` may still lead elsewhere (`torch.nn.parallel.distributed.os.system`), so what it resolves to
    is checked as well.
    """
    if not (isinstance(name, str) and name.startswith(_TRUSTED_PREFIXES) and _is_model(resolve(name))):
        raise ConfigError(
            f"{source} would import and call '{name}', which is no model of torch.nn or kd_lightning. If you trust "
            "it, allow that with kd.load(folder, trust=True)."
        )


def _is_model(found: Any) -> bool:
    """Tell whether an object is a module class of a trusted package, or a builder that reads no other files."""
    module = str(getattr(found, "__module__", ""))
    if isinstance(found, type):
        return issubclass(found, nn.Module) and module.startswith(_TRUSTED_PREFIXES)
    builder = inspect.isfunction(found) and found.__annotations__.get("return") in (nn.Module, "nn.Module")
    # `pretrained` and `saved` take options with which Transformers runs remote code.
    return builder and module.startswith("kd_lightning.models.") and module != "kd_lightning.models.pretrained"
