"""Stacks of transformer layers: where they are in a model, and which of them an address means.

They are found from structure and not from a list of model names: as the Transformers models inside declare what they
can record (`_can_record_outputs`), else as uniform lists of layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

from torch import nn

from kd_lightning.core.errors import AddressError
from kd_lightning.features import recording
from kd_lightning.features.attention import attends, has_attention_interface, self_attention
from kd_lightning.features.structure import Node, declared_fields, is_transformers_model, unwrap


@dataclass(frozen=True)
class Stack:
    """Layers that run one after the other.

    Args:
        owner: the module that runs them; its path is what prefixes are compared with.
        layers: the layer modules in order.
        attentions: the module that attends in each layer, None where that is ambiguous.
        calls: the number of layers that run; more than `layers` where modules are shared (ALBERT).
        rule: is the feature after layer k that layer's `output`, or the next layer's `input`.
        index: which part of a layer's output is its hidden state, if the output is a tuple.
        tied: the module whose `last_hidden_state` is the last feature, if not the last layer's output.
        refusal: why this model's layers cannot be addressed by number, empty if they can.
    """

    owner: Node
    layers: list[Node]
    attentions: list[Node | None]
    calls: int
    rule: Literal["output", "input"] = "output"
    index: int = 0
    tied: Node | None = None
    refusal: str = ""

    @property
    def path(self) -> str:
        """Where the stack is in the model."""
        return self.owner.path

    @property
    def shared(self) -> bool:
        """Whether one module runs as several layers, so that calls have to be counted."""
        return self.calls != len(self.layers) or len({id(layer.module) for layer in self.layers}) < len(self.layers)


@dataclass(frozen=True)
class Stacks:
    """All stacks of one model."""

    found: list[Stack] = field(default_factory=list)

    def names(self) -> dict[str, Stack]:
        """Return each stack under the shortest prefix that means only it (`""` where it is the only one)."""
        return {self._shortest(stack): stack for stack in self.found}

    def get(self, prefix: str) -> Stack | None:
        """Return the stack that a prefix means, or None if it means none.

        Raises:
            AddressError: the prefix fits several stacks.

        """
        fits = self._fits(prefix)
        if len(fits) > 1:
            names = " or ".join(f"{name}.hidden.1" for name in self.names())
            raise AddressError(f"This model has {len(fits)} stacks of layers; use a prefix: {names}.")
        return fits[0] if fits else None

    def _fits(self, prefix: str) -> list[Stack]:
        if not prefix:
            return self.found
        ends = [stack for stack in self.found if f".{stack.path}".endswith(f".{prefix}")]
        return ends or [stack for stack in self.found if stack.path.startswith(f"{prefix}.")]

    def _shortest(self, stack: Stack) -> str:
        parts = stack.path.split(".")
        suffixes = [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]
        return next((name for name in ("", parts[0], *suffixes) if self._fits(name) == [stack]), stack.path)


def find_stacks(nodes: dict[str, Node]) -> Stacks:
    """Return the stacks of a model: as its Transformers parts declare them, else as its lists of layers show them."""
    return Stacks(_recorded_stacks(nodes) or _listed_stacks(nodes))


# -- what Transformers models declare ------------------------------------------------------------------------------


def _recorded_stacks(nodes: dict[str, Node]) -> list[Stack]:
    """Return the stacks of every Transformers model inside, by its own table; none without Transformers."""
    by_owner: dict[str, list[Node]] = {}
    for path, node in nodes.items():
        owner = _owner(path, nodes)
        if owner is not None and any(_matches(spec, node) for spec in _specs(owner, "hidden_states")):
            by_owner.setdefault(owner.path, []).append(node)
    return [_recorded_stack(nodes[path], layers, nodes) for path, layers in by_owner.items()]


def _recorded_stack(owner: Node, layers: list[Node], nodes: dict[str, Node]) -> Stack:
    config: Any = owner.module.config
    shared = hasattr(config, "num_hidden_groups")  # ALBERT: groups of layers that run many times
    calls = config.num_hidden_layers * getattr(config, "inner_group_num", 1) if shared else len(layers)
    spec = next(spec for spec in _specs(owner, "hidden_states") if _matches(spec, layers[0]))
    numbered = getattr(spec, "capture_initial_hidden_state", True)
    refusal = "" if numbered else "its recorded hidden states do not start with the embeddings"
    attentions: list[Node | None] = [*_attentions(owner, nodes)]
    index = getattr(spec, "index", 0)
    return Stack(owner, layers, attentions, calls, "output", index, _recorded_tie(owner, nodes), refusal)


def _attentions(owner: Node, nodes: dict[str, Node]) -> Iterator[Node]:
    for path, node in nodes.items():
        if _owner(path, nodes) is owner and any(_matches(spec, node) for spec in _specs(owner, "attentions")):
            inside = [
                n for n in nodes.values() if f"{n.path}.".startswith(f"{path}.") and has_attention_interface(n.module)
            ]
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
    """Tell whether a table's entry (a class, the end of a path, or a recorder with both) means this module."""
    target = spec if isinstance(spec, type) else getattr(spec, "target_class", None)
    ending = spec if isinstance(spec, str) else getattr(spec, "class_name", None)
    part = getattr(spec, "layer_name", None)
    right_class = target is not None and isinstance(node.module, target)
    right_name = ending is not None and f".{node.path}".endswith(ending)
    return (right_class or right_name) and (part is None or f".{part.strip('.')}." in f".{node.path}.")


def _recorded_tie(owner: Node, nodes: dict[str, Node]) -> Node | None:
    """Return the model whose `last_hidden_state` replaces its last layer's output, as `capture_outputs` does."""
    path: str | None = owner.path
    while path is not None:
        default = _tie_default(nodes[path].module)
        if default is not None:
            own = getattr(getattr(nodes[path].module, "config", None), "tie_last_hidden_states", None)
            return nodes[path] if (default if own is None else own) else None
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


# -- lists of equal layers ------------------------------------------------------------------------------------------


def _listed_stacks(nodes: dict[str, Node]) -> list[Stack]:
    """Return the stacks that lists of equal layers make: those whose layers attend, else the longest list."""
    lists = [node for node in nodes.values() if _is_layer_list(node.module)]
    lists = [node for node in lists if not any(_is_inside(node, other) for other in lists)]
    attending = [node for node in lists if any(attends(module) for module in node.module.modules())]
    longest = [node for node in lists if len(node.module._modules) == max(len(n.module._modules) for n in lists)]
    chosen = attending or longest
    return [_listed_stack(node, nodes, _refusal(node, lists, nodes)) for node in chosen]


def _is_layer_list(module: nn.Module) -> bool:
    if not isinstance(module, (nn.ModuleList, nn.Sequential)):
        return False
    layers = [unwrap(layer) for layer in module._modules.values() if layer is not None]
    enough = len(layers) > (1 if isinstance(module, nn.Sequential) else 0)
    return enough and len({type(layer) for layer in layers}) == 1 and any(True for _ in layers[0].children())


def _is_inside(node: Node, other: Node) -> bool:
    return node is not other and (not other.path or node.path.startswith(f"{other.path}."))


def _listed_stack(listing: Node, nodes: dict[str, Node], refusal: str) -> Stack:
    layers = [nodes[f"{listing.path}.{name}".lstrip(".")] for name in listing.module._modules]
    attentions = [self_attention(layer, nodes.values()) for layer in layers]
    owner = nodes[listing.path.rpartition(".")[0]]
    return Stack(owner, layers, attentions, len(layers), "input", 0, _listed_tie(owner, nodes), refusal)


def _listed_tie(owner: Node, nodes: dict[str, Node]) -> Node | None:
    """Return what runs the layers, or the Transformers model around: its `last_hidden_state` is its last hidden state.

    A model may normalise what its encoder returns (Swin), and then only the encoder's own is the last of the list.
    """
    if _is_transformers_own(owner.module) and recording.returns_last(type(owner.module)):
        return owner
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
    return _recording_refusal(nodes[owner].module)


def _is_spread(one: Node, other: Node) -> bool:
    same_owner = one.path.rpartition(".")[0] == other.path.rpartition(".")[0]
    return same_owner and len(one.module._modules) == len(other.module._modules)


def _turns_axes(owner: nn.Module) -> bool:
    """Tell whether a Transformers module turns the axes of what it gives its layers (XLNet, SqueezeBERT)."""
    if not _is_transformers_own(owner):
        return False
    source = inspect.getsource(type(owner).forward)
    return "input_ids.transpose(0, 1)" in source or "hidden_states.permute(" in source


def _recording_refusal(owner: nn.Module) -> str:
    """Return why layers have not the hidden states that Transformers numbers alike; blocks of images count from 1."""
    owned: Any = type(owner)  # mypy takes a Module's class for unhashable
    reason = recording.refusal(owned) if _is_transformers_own(owner) else ""
    convolves = any(isinstance(module, nn.Conv2d) for module in owner.modules())
    return "" if convolves and reason == recording.NO_EMBEDDINGS else reason


def _is_transformers_own(module: nn.Module) -> bool:
    return type(module).__module__.startswith("transformers.")


def _time_first(module: nn.Module) -> bool:
    return getattr(module, "batch_first", True) is False
