"""What can be known of a live model before it runs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from kd_lightning.core.errors import AddressError
from kd_lightning.core.types import ModelInfo
from kd_lightning.features.addresses import split_input
from kd_lightning.features.modules import clean
from kd_lightning.features.resolver import Resolver
from kd_lightning.features.widths import head_width, hidden_width, logits_width, module_widths


class LiveModelInfo:
    """Layers, widths and addresses of a model, from its structure and config.

    Args:
        model: any module.
        has_outputs: whether an adapter names the fields of its output. Any field name then passes until it is taken.
    """

    def __init__(self, model: nn.Module, has_outputs: bool = False) -> None:
        self._resolver = Resolver(model, has_outputs=has_outputs)

    def layers(self, stack: str = "") -> int:
        """Return the number of layers of a stack; calls count where modules are shared (ALBERT).

        Raises:
            AddressError: there is no such stack.

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

    def width(self, address: str) -> int | None:
        """Return the size of a feature's last axis (channels, for convolutions), or None where it cannot be known.

        Raises:
            AddressError: the model has no such feature.

        """
        self._resolver.probe(address)
        layer = self._resolver.layer(address)
        if layer is not None:
            stack, asked = layer
            if asked.kind == "hidden":
                return hidden_width(stack)
            attention = stack.attentions[0 if stack.shared else asked.index - 1]
            known = attention is not None and asked.kind in ("query", "key", "value")
            return head_width(attention.module, asked.kind) if known and attention is not None else None
        return self._other_width(address)

    def check(self, addresses: Sequence[str]) -> None:
        """Raise `AddressError` for the first address the model cannot give, naming the closest ones it can."""
        for address in addresses:
            self._resolver.probe(address)

    def _other_width(self, address: str) -> int | None:
        resolver = self._resolver
        path, takes_input = split_input(address)
        path = clean(path, resolver.nodes)
        if address in resolver.fields:
            return logits_width(resolver.model) if address == "logits" else self._state_width(address)
        if path not in resolver.nodes:
            return None
        node = resolver.nodes[path]
        for stack in resolver.stacks.found:
            if any(node.module is layer.module for layer in stack.layers):
                return hidden_width(stack)
        return module_widths(node.module)[0 if takes_input else 1]

    def _state_width(self, address: str) -> int | None:
        found = self._resolver.stacks.found
        return hidden_width(found[0]) if address == "last_hidden_state" and len(found) == 1 else None


def model_info(model: nn.Module, has_outputs: bool = False) -> ModelInfo:
    """Return what is known of a model before it runs.

    Args:
        model: any module; wrappers of DDP and `torch.compile` are seen through.
        has_outputs: whether an adapter makes named fields from its output, so that any field name may be right.

    Example:
        >>> info = model_info(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))
        >>> info.width("0"), info.width("0:in"), info.width("logits")
        (3, 4, 2)

    """
    return LiveModelInfo(model, has_outputs)
