"""The map of modules that return it, always or when asked with `output_attentions=True` (DeBERTa-v2, MPNet)."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

from torch import Tensor, nn

from kd_lightning.features.hooks import Hook, Remover, all_tensors
from kd_lightning.features.record import Record
from kd_lightning.features.selfattention import takes_output_attentions


class Answered(NamedTuple):
    """What a module returned as its map, and how many words it was given."""

    map: Tensor | None
    words: int


class Ask(Hook):
    """Pre-hook: sets `output_attentions=True` for this one module."""

    def __init__(self, record: Record, address: str, module: nn.Module) -> None:
        super().__init__(record, address)
        # Found here and not when called: `inspect` does not compile.
        names = inspect.signature(type(module).forward).parameters
        self.position = list(names).index("output_attentions") - 1

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the arguments with the wish added."""
        if len(args) > self.position:
            return (*args[: self.position], True, *args[self.position + 1 :]), kwargs
        return args, {**kwargs, "output_attentions": True}


class Dropped(Hook):
    """Hook on a dropout: remembers what went in for what came out."""

    def __init__(self, record: Record, address: str) -> None:
        super().__init__(record, address)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Remember one call."""
        self.seen.append((args[0], output))


class Answer(Hook):
    """Hook: notes the map, as it was before dropout."""

    def __init__(self, record: Record, address: str, dropped: Dropped) -> None:
        super().__init__(record, address)
        self.dropped = dropped

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Note the map."""
        tensors = list(all_tensors(output))
        probabilities = next((tensor for tensor in tensors if tensor.dim() == 4), None)
        for before, after in self.dropped.seen:
            if after is probabilities:
                probabilities = before
        self.dropped.seen.clear()
        self.record.note(self.address, Answered(probabilities, tensors[0].shape[1]))


def request_map(module: nn.Module, record: Record, address: str, removers: list[Remover]) -> None:
    """Install what asks a module for its map, if it has to be asked, and notes it."""
    dropped = Dropped(record, address)
    for child in module.children():
        if isinstance(child, nn.Dropout):
            removers.append(child.register_forward_hook(dropped).remove)
    if takes_output_attentions(module):
        removers.append(module.register_forward_pre_hook(Ask(record, address, module), with_kwargs=True).remove)
    removers.append(module.register_forward_hook(Answer(record, address, dropped)).remove)
