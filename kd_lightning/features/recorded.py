"""Stacks from what Transformers models declare they can record (`_can_record_outputs`)."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

from torch import nn

from kd_lightning.features.modules import Node
from kd_lightning.features.selfattention import speaks_interface
from kd_lightning.features.stacks import Stack


def recorded_stacks(nodes: dict[str, Node]) -> list[Stack]:
    """Return the stacks of every Transformers model inside, by its own table; none without Transformers."""
    by_owner: dict[str, list[Node]] = {}
    for path, node in nodes.items():
        owner = _owner(path, nodes)
        if owner is not None and any(_matches(spec, node) for spec in _specs(owner, "hidden_states")):
            by_owner.setdefault(owner.path, []).append(node)
    return [_stack(nodes[path], layers, nodes) for path, layers in by_owner.items()]


def is_transformers_model(module: nn.Module) -> bool:
    """Return whether a module is a Transformers model, without importing Transformers to find out."""
    modeling = sys.modules.get("transformers.modeling_utils")
    return modeling is not None and isinstance(module, modeling.PreTrainedModel)


def _stack(owner: Node, layers: list[Node], nodes: dict[str, Node]) -> Stack:
    config: Any = owner.module.config
    shared = hasattr(config, "num_hidden_groups")  # ALBERT: groups of layers that run many times
    calls = config.num_hidden_layers * getattr(config, "inner_group_num", 1) if shared else len(layers)
    spec = next(spec for spec in _specs(owner, "hidden_states") if _matches(spec, layers[0]))
    numbered = getattr(spec, "capture_initial_hidden_state", True)
    refusal = "" if numbered else "its recorded hidden states do not start with the embeddings"
    attentions: list[Node | None] = [*_attentions(owner, nodes)]
    index = getattr(spec, "index", 0)
    return Stack(owner, layers, attentions, calls, "output", index, _tied(owner, nodes), refusal)


def _attentions(owner: Node, nodes: dict[str, Node]) -> Iterator[Node]:
    for path, node in nodes.items():
        if _owner(path, nodes) is owner and any(_matches(spec, node) for spec in _specs(owner, "attentions")):
            inside = [n for n in nodes.values() if f"{n.path}.".startswith(f"{path}.") and speaks_interface(n.module)]
            yield inside[-1] if inside else node


def _owner(path: str, nodes: dict[str, Node]) -> Node | None:
    while True:
        if is_transformers_model(nodes[path].module):
            return nodes[path]
        if not path:
            return None
        path = path.rpartition(".")[0]


def _specs(owner: Node, key: str) -> list[Any]:
    specs = (getattr(owner.module, "_can_record_outputs", None) or {}).get(key, [])
    return specs if isinstance(specs, list) else [specs]


def _matches(spec: Any, node: Node) -> bool:
    """Say whether a table's entry (a class, the end of a path, or a recorder with both) means this module."""
    target = spec if isinstance(spec, type) else getattr(spec, "target_class", None)
    ending = spec if isinstance(spec, str) else getattr(spec, "class_name", None)
    part = getattr(spec, "layer_name", None)
    right_class = target is not None and isinstance(node.module, target)
    right_name = ending is not None and f".{node.path}".endswith(ending)
    return (right_class or right_name) and (part is None or f".{part.strip('.')}." in f".{node.path}.")


def _tied(owner: Node, nodes: dict[str, Node]) -> Node | None:
    """Return the model whose `last_hidden_state` replaces its last layer's output, as `capture_outputs` does."""
    path: str | None = owner.path
    while path is not None:
        default = _tie_default(nodes[path].module)
        if default is not None:
            says = getattr(getattr(nodes[path].module, "config", None), "tie_last_hidden_states", None)
            return nodes[path] if (default if says is None else says) else None
        path = path.rpartition(".")[0] if path else None
    return None


def _tie_default(module: nn.Module) -> bool | None:
    function: Any = type(module).forward
    while function is not None:
        free = inspect.getclosurevars(function).nonlocals if hasattr(function, "__closure__") else {}
        if "tie_last_hidden_states" in free:
            return free["tie_last_hidden_states"]
        function = getattr(function, "__wrapped__", None)
    return None
