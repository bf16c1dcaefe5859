"""The record of one tap's forward pass, and the hooks that write to it.

Hooks are small objects: a model that is copied or pickled while tapped takes its hooks along, and a copy of ours turns
into a function that does nothing, so it neither writes into the original's tap nor keeps the pickle from loading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

Remover: TypeAlias = Callable[[], None]
"""What removes an installed hook."""

State = Literal["idle", "running", "complete", "failed", "taken"]


class AllCollected(Exception):
    """Ends a forward pass of which nothing more is needed."""


class Record:
    """What hooks have collected in the model's last forward pass.

    Hooks also fire when gradient checkpointing runs a layer again during backward, or when a part of the model is
    called by itself. The model is not running then, and the record collects nothing.
    """

    stop_after: int
    """After how many features the pass is ended by `AllCollected`; 0: never."""

    copies: bool
    """Whether tensors are copied when they are collected, because the model writes into them later."""

    def __init__(self, copies: bool = False) -> None:
        self.copies = copies
        self.state: State = "idle"
        self.values: dict[str, Any] = {}
        self.versions: dict[str, int] = {}
        self.calls: dict[str, int] = {}
        self.without_grad: dict[str, bool] = {}
        self.collected: dict[str, int] = {}
        self.stop_after = 0
        self.grad = False

    def clear(self, state: State = "idle") -> None:
        """Forget everything."""
        self.values.clear()
        self.versions.clear()
        self.calls.clear()
        self.without_grad.clear()
        self.collected.clear()
        self.state = state

    def begin(self) -> None:
        """Start the record of a new forward pass."""
        self.clear("running")
        self.grad = torch.is_grad_enabled()

    def end(self) -> None:
        """Complete the record."""
        self.state = "complete"

    def collect(self, address: str, value: Any, final: bool = True) -> None:
        """Keep what a hook received; a later call within the same pass replaces it.

        Raises:
            AllCollected: if with it each of the `stop_after` features is there in its final form.

        """
        if self.state == "running":
            self.values[address] = value.clone() if self.copies and isinstance(value, Tensor) else value
            self._note_version(address)
            self.without_grad[address] = self.grad and not torch.is_grad_enabled()
        if final:
            self.finalize(address)

    def _note_version(self, address: str) -> None:
        if (version := _version(self.values[address])) is not None:
            self.versions[address] = version

    def is_overwritten(self, address: str) -> bool:
        """Return whether a collected tensor was written into since; False where tensors have no versions."""
        return address in self.versions and _version(self.values[address]) != self.versions[address]

    def finalize(self, address: str) -> None:
        """Declare the collected value to be the feature itself.

        Raises:
            AllCollected: if this was the last of the `stop_after` features.

        """
        if self.state != "running":
            return
        self.collected[address] = self.collected.get(address, 0) + 1
        if len(self.collected) == self.stop_after:
            self.end()
            raise AllCollected

    def call(self, address: str) -> int:
        """Count the calls of modules that run as several layers; returns 1 for the first."""
        self.calls[address] = self.calls.get(address, 0) + 1
        return self.calls[address]


def _version(value: Any) -> int | None:
    """Return how often a tensor was written into; None in inference mode and in compiled graphs, which do not count."""
    if torch.compiler.is_compiling() or not isinstance(value, Tensor) or value.is_inference():
        return None
    return value._version


def no_hook(*args: Any, **kwargs: Any) -> None:
    """Do nothing: what a copied hook becomes."""


def _get_no_hook() -> Callable[..., None]:
    return no_hook


class Hook:
    """Base of all hooks: knows its record and leaves nothing in copies."""

    def __init__(self, record: Record, address: str) -> None:
        self.record = record
        self.address = address

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return no_hook

    def __reduce__(self) -> tuple[Any, ...]:
        return _get_no_hook, ()


class Begin(Hook):
    """Pre-hook of the whole model."""

    def __call__(self, module: nn.Module, args: Any) -> None:
        """Start the record."""
        self.record.begin()


class End(Hook):
    """Last hook of the whole model, not called if its forward raised."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Complete the record."""
        self.record.end()


class Raised(Hook):
    """Hook of the whole model that is called after an exception too."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Clear the record if it was not completed."""
        if self.record.state == "running":
            self.record.clear("failed")


class Output(Hook):
    """Collects the first tensor of a module's output, or the part number `index` of a tuple."""

    def __init__(self, record: Record, address: str, index: int = 0, final: bool = True) -> None:
        super().__init__(record, address)
        self.index, self.final = index, final

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Collect the output."""
        part = output[self.index] if self.index and isinstance(output, (tuple, list)) else output
        self.record.collect(self.address, first_tensor(part), self.final)


class WholeOutput(Hook):
    """Collects a module's output as it is."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Collect the output."""
        self.record.collect(self.address, output)


class LastHiddenState(Hook):
    """Collects the `last_hidden_state` of a model's output; keeps what was collected before if there is none."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Collect the last hidden state, if there is one."""
        last = output[0] if isinstance(output, tuple) else getattr(output, "last_hidden_state", None)
        if last is None:
            self.record.finalize(self.address)
        else:
            self.record.collect(self.address, last)


class Input(Hook):
    """Pre-hook: collects the first tensor of a module's input."""

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Collect the input."""
        self.record.collect(self.address, first_tensor((args, kwargs)))


class FirstInput(Hook):
    """Pre-hook on shared layers: collects the input of the first call only."""

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Collect the input of the first call."""
        if self.record.call(self.address) == 1:
            self.record.collect(self.address, first_tensor((args, kwargs)))


class CountedOutput(Output):
    """Collects the output of call number `wanted` of layers that are shared."""

    def __init__(self, record: Record, address: str, wanted: int, index: int = 0) -> None:
        super().__init__(record, address, index)
        self.wanted = wanted

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Collect the output of the wanted call."""
        if self.record.call(self.address) == self.wanted:
            super().__call__(module, args, output)


def all_tensors(value: Any) -> list[Any]:
    """Return the tensors inside tuples, lists and mappings, in order; a packed sequence counts as one."""
    if isinstance(value, (Tensor, PackedSequence)):
        return [value]
    parts = list(value.values()) if isinstance(value, Mapping) else value
    return [tensor for part in parts for tensor in all_tensors(part)] if isinstance(parts, (tuple, list)) else []


def first_tensor(value: Any) -> Any:
    """Return the first of `all_tensors`, or None.

    Example:
        >>> import torch
        >>> first_tensor((None, {"a": torch.tensor(1), "b": torch.tensor(2)}))
        tensor(1)

    """
    return next(iter(all_tensors(value)), None)
