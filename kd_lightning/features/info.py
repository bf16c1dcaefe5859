"""What can be known of a live model before it runs: its layers, and what its features' axes are and how wide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from kd_lightning.core.errors import AddressError
from kd_lightning.core.types import FeatureInfo, Kind, ModelInfo
from kd_lightning.features.addresses import LayerAddress, address_kind, split_input
from kd_lightning.features.fake import FakePass
from kd_lightning.features.resolver import Resolver
from kd_lightning.features.stacks import Stack
from kd_lightning.features.structure import Node, clean, is_causal, is_transformers_model
from kd_lightning.features.widths import module_kinds, module_widths, norm_widths

_HEADS = ("classifier", "classification_head", "qa_outputs", "score", "head", "heads", "fc", "lm_head", "out", "output")


class LiveModelInfo(ModelInfo):
    """Layers, features and addresses of a model, from its structure and config; of image models also from a fake pass.

    Args:
        model: any module.
        has_outputs: whether an adapter names the fields of its output. Any field name then passes until it is taken.
    """

    def __init__(self, model: nn.Module, has_outputs: bool = False) -> None:
        self._resolver = Resolver(model, has_outputs=has_outputs)
        self._fake_pass = FakePass(self._resolver.model)

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
            if not names:
                raise AddressError(
                    f"There is no list of equal layers in this {type(self._resolver.model).__name__}, so its layers "
                    "have no numbers: write Match with module paths instead of a MatchScheme."
                )
            raise AddressError(f"There is no stack of layers '{stack}' in this model; it has {names or 'none'}.")
        return found.calls

    def feature(self, address: str) -> FeatureInfo:
        """Return what a feature's axes are, its width (channels of maps), stack and module, as far as they are certain.

        Raises:
            AddressError: if the model has no such feature.

        """
        self._resolver.probe(address)
        return replace(self._described(address), address=address, module=self._module_at(address))

    def _module_at(self, address: str) -> nn.Module | None:
        """Return the module whose output a feature is, where its address is a module path."""
        path = clean(address, self._resolver.nodes)
        layer = self._resolver.layer(address) is not None or address in self._resolver.fields
        return None if layer or path not in self._resolver.nodes else self._resolver.nodes[path].module

    def _described(self, address: str) -> FeatureInfo:
        known = self._from_structure(address)
        if None not in (known.kind, known.width) or known.kind not in (None, "map", "tokens", "vector", "classes"):
            return known
        seen = self._fake_pass.feature(self._canonical(address))
        agrees = known.kind in (None, seen.kind) or (known.kind, seen.kind) == ("classes", "vector")
        if not agrees or (None not in (known.width, seen.width) and known.width != seen.width):
            return known
        return replace(known, kind=known.kind or seen.kind, width=known.width or seen.width)

    def _canonical(self, address: str) -> str:
        """Return the one name that a fake pass has for a feature; "" where an adapter decides what it is."""
        resolver = self._resolver
        if (layer := resolver.layer(address)) is not None:
            prefix = self._name(layer[0])
            return f"{prefix}.{layer[1].kind}.{layer[1].index}".lstrip(".")
        path, takes_input = split_input(address)
        path = clean(path, resolver.nodes)
        if address not in resolver.fields and path in resolver.nodes:
            return f"{path}:in" if takes_input else path
        return "" if resolver.any_field else address

    def _from_structure(self, address: str) -> FeatureInfo:
        resolver = self._resolver
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

    def _layer_feature(self, stack: Stack, parsed: LayerAddress) -> FeatureInfo:
        name = self._name(stack)
        if parsed.kind == "hidden":
            hidden = self._hidden_kind(stack)
            same = parsed.index > 0 or hidden != "map"  # a first convolution may have other channels in front
            return FeatureInfo(hidden, _hidden_width(stack) if same else None, name)
        kind = address_kind(f"{parsed.kind}.{parsed.index}")
        attention = stack.attentions[0 if stack.shared else parsed.index - 1]
        width = _head_width(attention.module, parsed.kind) if kind == "heads" and attention is not None else None
        return FeatureInfo(kind, width, name)

    def _field(self, address: str) -> FeatureInfo:
        """Return what is known of a field of the model's output; encoder-decoders return their decoder's."""
        stacks = self._resolver.stacks.names()
        side = "encoder" if address.startswith("encoder_") else "decoder"
        name = side if side in stacks else ""
        if address_kind(address) == "classes":
            model = self._resolver.model
            return FeatureInfo("classes", _logits_width(model, address), name, predicts_next=is_causal(model))
        if address in ("last_hidden_state", "encoder_last_hidden_state", "pooler_output"):
            stack = stacks.get(name, next(iter(stacks.values()))) if name or len(stacks) == 1 else None
            kind = None if stack is None else self._hidden_kind(stack)
            if address == "pooler_output":  # of a map (B, C, H, W), some models return (B, C, 1, 1)
                return FeatureInfo("vector" if kind == "tokens" else None)
            kind = None if kind == "map" and stack is not None and stack.tied is None else kind
            width = _hidden_width(stack) if stack is not None and len(stacks) == 1 else None
            return FeatureInfo(kind, width, name)
        return FeatureInfo(address_kind(address), stack=name)

    def _module(self, node: Node, takes_input: bool) -> FeatureInfo:
        widths, kinds = module_widths(node.module), module_kinds(node.module)
        side = 0 if takes_input else 1
        for stack in self._resolver.stacks.found:
            if any(node.module is layer.module for layer in stack.layers):
                kind = self._hidden_kind(stack) if takes_input or not stack.index else None
                return FeatureInfo(kind, _hidden_width(stack), self._name(stack))
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


def _hidden_width(stack: Stack) -> int | None:
    """Return the width of a stack's hidden states; None where its layers differ (Swin) or do not tell."""
    config = getattr(stack.owner.module, "config", None)
    if config is not None and any(hasattr(config, name) for name in ("depths", "hidden_sizes")):
        return None
    width = getattr(config, "hidden_size", None)
    if isinstance(width, int):
        return width
    norms = [norm_widths(module) for layer in stack.layers for module in layer.module.modules()]
    widths = {found[1] for found in norms if found is not None}
    return widths.pop() if len(widths) == 1 else None


def _head_width(attention: nn.Module, kind: str) -> int | None:
    """Return the width of one head's `query`, `key` or `value`."""
    own = {"value": ("v_head_dim",)}.get(kind, ("qk_head_dim",))
    for name in (*own, "head_dim", "attention_head_size", "key_value_proj_dim"):
        if isinstance(width := getattr(attention, name, None), int):
            return width
    config = getattr(attention, "config", None)
    return getattr(config, "head_dim", None)


def _logits_width(model: nn.Module, address: str) -> int | None:
    """Return the number of classes or words of a model's logits; of an image model with a distillation token, three."""
    if is_transformers_model(model):
        embeddings: Any = model.get_output_embeddings() if address == "logits" else None  # type: ignore[operator]
        if embeddings is not None:
            return module_widths(embeddings)[1]
        kinds = ("SequenceClassification", "TokenClassification", "AudioClassification")
        labels = "ForImageClassification" in type(model).__name__ or type(model).__name__.endswith(kinds)
        return model.config.num_labels if labels else None  # type: ignore[union-attr,return-value]
    if isinstance(model, nn.Sequential):
        return module_widths(model)[1]
    heads = [getattr(model, name) for name in _HEADS if isinstance(getattr(model, name, None), nn.Module)]
    return module_widths(heads[0])[1] if len(heads) == 1 and address == "logits" else None
