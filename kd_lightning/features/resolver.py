"""From an address to the probe that reads it, or to the error that explains why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from kd_lightning.core.errors import AddressError, hint
from kd_lightning.features import probes
from kd_lightning.features.addresses import LAYER_KINDS, LayerAddress, layer_address, split_input
from kd_lightning.features.attention import has_attention_interface, own_eager, special_kernel
from kd_lightning.features.stacks import Stack, find_stacks
from kd_lightning.features.structure import clean, declared_fields, tree, unwrap


class Resolver:
    """Knows a model's modules, stacks and output fields.

    Args:
        model: as the user has it; wrappers of DDP and `torch.compile` are seen through.
        outputs: makes named fields from the model's output; None: its own names.
        has_outputs: whether there is such a function, where only that is known. Any field name may then be right.
    """

    def __init__(
        self,
        model: nn.Module,
        outputs: Callable[[Any], Mapping[str, Any]] | None = None,
        has_outputs: bool = False,
    ) -> None:
        self.model = unwrap(model)
        self.is_bare = self.model is model
        self.nodes = tree(self.model)
        self.stacks = find_stacks(self.nodes)
        self.fields = declared_fields(self.model)
        self.encoders = [node.module for node in self.nodes.values() if isinstance(node.module, nn.TransformerEncoder)]
        self.outputs = outputs
        self.any_field = has_outputs or outputs is not None

    def probe(self, address: str) -> probes.Probe:
        """Return the probe for an address.

        Raises:
            AddressError: if the model has no such feature; names the closest ones it has.

        """
        path, takes_input = split_input(address)
        path = clean(path, self.nodes)
        layer = self.layer(address)
        if layer is not None:
            return self._layer_probe(address, *layer)
        if address in self.fields:
            return probes.FieldProbe(address, self.model, self.outputs)
        if path and path in self.nodes:
            return probes.ModuleProbe(address, self.nodes[path].outer, takes_input)
        if self.any_field and address.isidentifier():
            return probes.FieldProbe(address, self.model, self.outputs)
        raise AddressError(self._unknown(address, path))

    def layer(self, address: str) -> tuple[Stack, LayerAddress] | None:
        """Return the stack that a layer address is about; None if it is another kind of address."""
        parsed = layer_address(address)
        path = clean(address, self.nodes)
        if parsed is None or (path in self.nodes and not self.stacks.found):
            return None
        parsed = layer_address(path) or parsed
        stack = self.stacks.get(parsed.stack)
        return None if stack is None else (stack, parsed)

    def choices(self) -> Iterable[str]:
        """Return every address that names a layer, a field or a module."""
        for name, stack in self.stacks.names().items():
            prefix = f"{name}." if name else ""
            for kind in LAYER_KINDS:
                yield from (f"{prefix}{kind}.{k}" for k in range(kind != "hidden", stack.calls + 1))
        yield from self.fields
        yield from filter(None, self.nodes)

    def _layer_probe(self, address: str, stack: Stack, parsed: LayerAddress) -> probes.Probe:
        if stack.refusal:
            raise AddressError(
                f"'{address}' cannot be read from this model: {stack.refusal}; "
                f"use a module path, such as '{stack.layers[0].path}', whose axes are the module's own."
            )
        first = 0 if parsed.kind == "hidden" else 1
        attending = stack.calls if stack.shared and stack.attentions else len(stack.attentions)
        last = stack.calls if parsed.kind == "hidden" else attending
        if not last:
            raise AddressError(f"There is no '{address}': no attention was found in this model; use module paths.")
        if not first <= parsed.index <= last:
            raise AddressError(f"There is no '{address}': '{parsed.kind}' goes from {first} to {last} in this model.")
        if parsed.kind == "hidden":
            return _hidden_probe(address, stack, parsed.index)
        return _attention_probe(address, stack, parsed)

    def _unknown(self, address: str, path: str) -> str:
        if layer_address(address) is not None and not self.stacks.found:
            return (
                f"There is no '{address}': no list of equal layers was found in this {type(self.model).__name__}; "
                f"use module paths. {hint(path, filter(None, self.nodes))}"
            )
        name = type(self.model).__name__
        field = " If its output has such a field, give an Adapter(outputs=…)." if address.isidentifier() else ""
        return f"There is no '{address}' in this {name}. {hint(address, self.choices())}{field}"


def _hidden_probe(address: str, stack: Stack, index: int) -> probes.Probe:
    if stack.shared and not (index == stack.calls and stack.tied):
        return probes.SharedProbe(address, stack, index)
    if index == stack.calls:
        last = stack.layers[-1].outer
        if stack.tied is None:
            return probes.ModuleProbe(address, last, index=stack.index)
        return probes.LastProbe(address, last, stack.tied.outer, stack.index)
    if index == 0 or stack.rule == "input":
        return probes.ModuleProbe(address, stack.layers[index].outer, takes_input=True)
    return probes.ModuleProbe(address, stack.layers[index - 1].outer, index=stack.index)


def _attention_probe(address: str, stack: Stack, parsed: LayerAddress) -> probes.Probe:
    node = stack.attentions[0] if stack.shared else stack.attentions[parsed.index - 1]
    if node is None:
        owner = type(stack.owner.module).__name__
        raise AddressError(
            f"'{address}' cannot be read: no module of that layer of this {owner} attends, or more than one may."
        )
    has_interface = has_attention_interface(node.module)
    if has_interface and (kernel := special_kernel(node.module)) is not None:
        raise AddressError(
            f"'{address}' cannot be read: '{node.path}' does something of its own under the '{kernel}' kernel, which a "
            "tap would undo; load the model with another attn_implementation."
        )
    if has_interface and own_eager(node.module) is not None:
        nodes = [node for node in stack.attentions if node is not None] if stack.shared else [node]
        modules = list({id(node.module): node.module for node in nodes}.values())
        return probes.KernelProbe(address, parsed.kind, modules, parsed.index if stack.shared else 0)
    if not stack.shared and isinstance(node.module, nn.MultiheadAttention):
        return probes.MultiheadProbe(address, parsed.kind, node.module)
    if not stack.shared and parsed.kind == "attention":
        return probes.RequestProbe(address, node.module)
    raise AddressError(
        f"'{address}' cannot be read: '{node.path}' ({type(node.module).__name__}) does not show what its kernel "
        f"receives; use a module path inside it, or 'attention.{parsed.index}'."
    )
