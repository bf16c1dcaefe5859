"""The modules of a model by path, seen through the wrappers of DDP, `torch.compile` and checkpointing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")


@dataclass(frozen=True)
class Node:
    """One module of a model.

    Args:
        path: its name without the wrappers' own parts.
        outer: what the parent calls (a wrapper, if there is one): the place for hooks.
        module: what is inside: the place to look at classes and configs.
    """

    path: str
    outer: nn.Module
    module: nn.Module


def unwrap(module: nn.Module) -> nn.Module:
    """Return the module inside any number of wrappers.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> unwrap(nn.DataParallel(layer)) is layer, unwrap(layer) is layer
        (True, True)

    """
    while (inner := _wrapped(module)) is not None:
        module = inner
    return module


def tree(model: nn.Module) -> dict[str, Node]:
    """Return every module by path, in registration order; one that is registered twice is there twice."""
    return {node.path: node for node in _walk(Node("", model, unwrap(model)))}


def clean(path: str, nodes: dict[str, Node]) -> str:
    """Return a path without the parts that wrappers add: `module.encoder._orig_mod.0` → `encoder.0`."""
    path = ".".join(part for part in path.split(".") if part not in _WRAPPERS)
    return path.removeprefix("module.") if path not in nodes else path


def _wrapped(module: nn.Module) -> nn.Module | None:
    for name in _WRAPPERS:
        if name in module._modules:
            return module._modules[name]
    if isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return module.module
    return None


def _walk(node: Node) -> Iterator[Node]:
    yield node
    for name, child in node.module._modules.items():
        if child is not None:
            yield from _walk(Node(f"{node.path}.{name}".lstrip("."), child, unwrap(child)))
