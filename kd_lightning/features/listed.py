"""Stacks of models that declare nothing: uniform lists of layers."""

from __future__ import annotations

import inspect
from itertools import combinations

from torch import nn

from kd_lightning.features.modules import Node, unwrap
from kd_lightning.features.outputs import declared_fields
from kd_lightning.features.recorded import is_transformers_model
from kd_lightning.features.selfattention import attends, self_attention
from kd_lightning.features.stacks import Stack


def listed_stacks(nodes: dict[str, Node]) -> list[Stack]:
    """Return the stacks that lists of equal layers make: those whose layers attend, else the longest list."""
    lists = _outermost([node for node in nodes.values() if _is_layer_list(node.module)])
    attending = [node for node in lists if any(attends(module) for module in node.module.modules())]
    longest = [node for node in lists if len(node.module._modules) == max(len(n.module._modules) for n in lists)]
    chosen = attending or longest
    return [_stack(node, nodes, _refusal(node, lists, nodes)) for node in chosen]


def _is_layer_list(module: nn.Module) -> bool:
    if not isinstance(module, (nn.ModuleList, nn.Sequential)):
        return False
    layers = [unwrap(layer) for layer in module._modules.values() if layer is not None]
    enough = len(layers) > (1 if isinstance(module, nn.Sequential) else 0)
    return enough and len({type(layer) for layer in layers}) == 1 and any(True for _ in layers[0].children())


def _outermost(lists: list[Node]) -> list[Node]:
    return [node for node in lists if not any(_is_inside(node, other) for other in lists)]


def _is_inside(node: Node, other: Node) -> bool:
    return node is not other and (not other.path or node.path.startswith(f"{other.path}."))


def _stack(listing: Node, nodes: dict[str, Node], refusal: str) -> Stack:
    layers = [nodes[f"{listing.path}.{name}".lstrip(".")] for name in listing.module._modules]
    attentions = [self_attention(layer, nodes.values()) for layer in layers]
    owner = nodes[listing.path.rpartition(".")[0]]
    return Stack(owner, layers, attentions, len(layers), "input", 0, _tied(owner, nodes), refusal)


def _tied(owner: Node, nodes: dict[str, Node]) -> Node | None:
    """Return the Transformers model that runs the layers: its `last_hidden_state` is also its last hidden state."""
    path = owner.path
    while path and not is_transformers_model(nodes[path].module):
        path = path.rpartition(".")[0]
    return nodes[path] if "last_hidden_state" in declared_fields(nodes[path].module) else None


def _refusal(listing: Node, lists: list[Node], nodes: dict[str, Node]) -> str:
    owner = listing.path.rpartition(".")[0]
    if any(isinstance(layer, nn.ModuleList) for layer in listing.module._modules.values()):
        return f"'{listing.path}' is a list of lists"
    if any(_is_spread(one, other) for one, other in combinations(lists, 2) if listing in (one, other)):
        return f"the layers of '{owner or 'the model'}' are spread over several lists"
    if _turns_axes(nodes[owner].module) or any(_time_first(module) for module in listing.module.modules()):
        return "its layers do not have the batch on the first axis and the width on the last"
    return ""


def _is_spread(one: Node, other: Node) -> bool:
    same_owner = one.path.rpartition(".")[0] == other.path.rpartition(".")[0]
    return same_owner and len(one.module._modules) == len(other.module._modules)


def _turns_axes(owner: nn.Module) -> bool:
    """Say whether a Transformers module turns the axes of what it gives its layers (XLNet, SqueezeBERT)."""
    if not type(owner).__module__.startswith("transformers."):
        return False
    source = inspect.getsource(type(owner).forward)
    return "input_ids.transpose(0, 1)" in source or "hidden_states.permute(" in source


def _time_first(module: nn.Module) -> bool:
    return getattr(module, "batch_first", True) is False
