"""Hooks as small objects: they write to a record, and their copies do nothing.

A model that is copied or pickled while tapped takes its hooks along. A copy of ours turns into a function that does
nothing, so it neither writes into the original's tap nor keeps the pickle from loading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from kd_lightning.features.record import Record

Remover: TypeAlias = Callable[[], None]


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
        """Start the notes."""
        self.record.begin()


class End(Hook):
    """Last hook of the whole model, not called if it raised."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Close the notes."""
        self.record.end()


class Raised(Hook):
    """Hook of the whole model that is called after an exception too."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Throw the notes away if they were not closed."""
        if self.record.state == "running":
            self.record.wipe("failed")


class Output(Hook):
    """Notes the first tensor of what a module returns, or the part number `index` of a tuple."""

    def __init__(self, record: Record, address: str, index: int = 0, final: bool = True) -> None:
        super().__init__(record, address)
        self.index, self.final = index, final

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Note the output."""
        part = output[self.index] if self.index and isinstance(output, (tuple, list)) else output
        self.record.note(self.address, first_tensor(part), self.final)


class Whole(Hook):
    """Notes a module's output as it is."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Note the output."""
        self.record.note(self.address, output)


class LastHiddenState(Hook):
    """Notes the `last_hidden_state` of a model's output, and leaves earlier notes alone if it has none."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Note the last hidden state, if there is one."""
        last = output[0] if isinstance(output, tuple) else getattr(output, "last_hidden_state", None)
        if last is None:
            self.record.settle(self.address)
        else:
            self.record.note(self.address, last)


class Input(Hook):
    """Pre-hook: notes the first tensor a module is given."""

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Note the input."""
        self.record.note(self.address, first_tensor((args, kwargs)))


class FirstInput(Hook):
    """Pre-hook on shared layers: notes the input of the first call only."""

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Note the input of the first call."""
        if self.record.call(self.address) == 1:
            self.record.note(self.address, first_tensor((args, kwargs)))


class CountedOutput(Output):
    """Notes the output of call number `wanted` of layers that are shared."""

    def __init__(self, record: Record, address: str, wanted: int, index: int = 0) -> None:
        super().__init__(record, address, index)
        self.wanted = wanted

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Note the output of the wanted call."""
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
