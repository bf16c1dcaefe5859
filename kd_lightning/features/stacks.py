"""Stacks of transformer layers: what was found in a model, and which of them an address means."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kd_lightning.core.errors import AddressError
from kd_lightning.features.modules import Node


@dataclass(frozen=True)
class Stack:
    """Layers that run one after the other.

    Args:
        owner: the module that runs them; its path is what prefixes are compared with.
        layers: the layer modules in order.
        attentions: the module that attends in each layer, None where it cannot be told.
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
            raise AddressError(f"This model has {len(fits)} stacks of layers, so say which one: {names}.")
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
