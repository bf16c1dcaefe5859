"""What can be known of a live model before it runs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from kd_lightning.core.errors import AddressError
from kd_lightning.core.types import FeatureInfo, Kind, ModelInfo
from kd_lightning.features.addresses import LayerAddress, address_kind, split_input
from kd_lightning.features.modules import Node, clean
from kd_lightning.features.resolver import Resolver
from kd_lightning.features.stacks import Stack
from kd_lightning.features.widths import head_width, hidden_width, logits_width, module_kinds, module_widths


class LiveModelInfo(ModelInfo):
    """Layers, features and addresses of a model, from its structure and config.

    Args:
        model: any module.
        has_outputs: whether an adapter names the fields of its output. Any field name then passes until it is taken.
    """

    def __init__(self, model: nn.Module, has_outputs: bool = False) -> None:
        self._resolver = Resolver(model, has_outputs=has_outputs)

    def layers(self, stack: str = "") -> int:
        """Return the number of layers of a stack; calls count where modules are shared (ALBERT).

        Raises:
            AddressError: if there is no such stack.

        """
        found = self._resolver.stacks.get(stack)
        if found is None:
            if "/" in stack:
                raise AddressError(
                    f"There is one teacher here, and no '{stack.rstrip('/')}' of several: leave '{stack}' out."
                )
            names = [name or "''" for name in self._resolver.stacks.names()]
            raise AddressError(f"There is no stack of layers '{stack}' in this model; it has {names or 'none'}.")
        return found.calls

    def feature(self, address: str) -> FeatureInfo:
        """Return what a feature's axes are, its width (channels of maps) and its stack, as far as they are certain.

        Raises:
            AddressError: if the model has no such feature.

        """
        resolver = self._resolver
        resolver.probe(address)
        if (layer := resolver.layer(address)) is not None:
            return self._layer_feature(*layer)
        if address in resolver.fields:
            return self._field(address)
        path, takes_input = split_input(address)
        path = clean(path, resolver.nodes)
        if path in resolver.nodes:
            return self._module(resolver.nodes[path], takes_input)
        return FeatureInfo(address_kind(address))  # a field that only an adapter knows

    def check(self, addresses: Sequence[str]) -> None:
        """Raise `AddressError` for the first address the model cannot give, naming the closest ones it can."""
        for address in addresses:
            self._resolver.probe(address)

    def _layer_feature(self, stack: Stack, asked: LayerAddress) -> FeatureInfo:
        name = self._name(stack)
        if asked.kind == "hidden":
            hidden = self._hidden_kind(stack)
            same = asked.index > 0 or hidden != "map"  # a first convolution may have other channels in front
            return FeatureInfo(hidden, hidden_width(stack) if same else None, name)
        kind = address_kind(f"{asked.kind}.{asked.index}")
        attention = stack.attentions[0 if stack.shared else asked.index - 1]
        width = head_width(attention.module, asked.kind) if kind == "heads" and attention is not None else None
        return FeatureInfo(kind, width, name)

    def _field(self, address: str) -> FeatureInfo:
        """Return what is known of a field of the model's output; encoder-decoders return their decoder's."""
        stacks = self._resolver.stacks.names()
        side = "encoder" if address.startswith("encoder_") else "decoder"
        name = side if side in stacks else ""
        if address == "logits":
            return FeatureInfo("classes", logits_width(self._resolver.model), name)
        if address in ("last_hidden_state", "encoder_last_hidden_state", "pooler_output"):
            stack = stacks.get(name, next(iter(stacks.values()))) if name or len(stacks) == 1 else None
            kind = None if stack is None else self._hidden_kind(stack)
            if address == "pooler_output":  # of a map (B, C, H, W), some models return (B, C, 1, 1)
                return FeatureInfo("vector" if kind == "tokens" else None)
            kind = None if kind == "map" and stack is not None and stack.tied is None else kind
            width = hidden_width(stack) if stack is not None and len(stacks) == 1 else None
            return FeatureInfo(kind, width, name)
        return FeatureInfo(address_kind(address), stack=name)

    def _module(self, node: Node, takes_input: bool) -> FeatureInfo:
        widths, kinds = module_widths(node.module), module_kinds(node.module)
        side = 0 if takes_input else 1
        for stack in self._resolver.stacks.found:
            if any(node.module is layer.module for layer in stack.layers):
                kind = self._hidden_kind(stack) if takes_input or not stack.index else None
                return FeatureInfo(kind, hidden_width(stack), self._name(stack))
            if any(node.path.startswith(f"{layer.path}.") for layer in stack.layers):
                kind = kinds[side] or (self._hidden_kind(stack) if self._is_part(node, stack) else None)
                return FeatureInfo(kind, widths[side], self._name(stack))
        return FeatureInfo(kinds[side], widths[side])

    def _hidden_kind(self, stack: Stack) -> Kind | None:
        """Return `tokens` where the layers attend, `map` where they convolve; None where they do both or neither."""
        config = getattr(stack.owner.module, "config", None)
        if stack.refusal:
            return None
        convolves = any(isinstance(part, nn.Conv2d) for layer in stack.layers for part in layer.module.modules())
        if not any(stack.attentions):
            return "map" if convolves else None
        if convolves or any(hasattr(config, name) for name in ("depths", "hidden_sizes")):
            return None  # stages may give tokens or maps
        return "queries" if hasattr(config, "num_queries") and "decoder" in self._name(stack) else "tokens"

    def _is_part(self, node: Node, stack: Stack) -> bool:
        """Tell whether a module is a sublayer of a known library's layer: it gives what the layer gives.

        Single linear layers and norms may be given all tokens of a batch in one row (OPT).
        """
        layer = next(layer for layer in stack.layers if node.path.startswith(f"{layer.path}."))
        parent = node.path.rpartition(".")[0]
        while isinstance(self._resolver.nodes[parent].module, nn.ModuleList):  # of T5's blocks
            parent = parent.rpartition(".")[0]
        known = type(layer.module).__module__.startswith(("transformers.", "torch.nn."))
        composite = any(True for child in node.module.children() for _ in child.parameters())
        return known and parent == layer.path and composite

    def _name(self, stack: Stack) -> str:
        return next(name for name, found in self._resolver.stacks.names().items() if found is stack)


def model_info(model: nn.Module, has_outputs: bool = False) -> ModelInfo:
    """Return what is known of a model before it runs.

    Args:
        model: any module; wrappers of DDP and `torch.compile` are seen through.
        has_outputs: whether an adapter makes named fields from its output, so that any field name may be right.

    Example:
        >>> info = model_info(nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(8, 2)))
        >>> info.feature("0")
        FeatureInfo(kind='map', width=8, stack='')
        >>> info.width("2:in"), info.width("logits")
        (8, 2)

    """
    return LiveModelInfo(model, has_outputs)
