"""One probe per address: which hooks it installs, and how what they collect becomes the feature."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from kd_lightning.core.errors import AddressError, hint
from kd_lightning.features import hooks
from kd_lightning.features.attention import CollectCall, Listener, listen, own_eager, request_map
from kd_lightning.features.hooks import Record, Remover
from kd_lightning.features.maps import attention_map, attention_scores, multihead_feature
from kd_lightning.features.stacks import Stack
from kd_lightning.features.structure import output_fields


class Probe(ABC):
    """Base of all probes.

    Args:
        address: what the feature is called.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    @abstractmethod
    def install(self, record: Record, removers: list[Remover]) -> None:
        """Put hooks on the model and append what removes each of them."""

    def finish(self, value: Any) -> Tensor:
        """Return the feature, from what the hooks have collected.

        Raises:
            AddressError: if it is no tensor.

        """
        if isinstance(value, PackedSequence):
            raise AddressError(f"'{self.address}' is a packed sequence; address the module that pads it instead.")
        if not isinstance(value, Tensor):
            raise AddressError(f"'{self.address}' is a {type(value).__name__}, and only tensors can be features.")
        return value


class ModuleProbe(Probe):
    """A module's output, or its input."""

    def __init__(self, address: str, module: nn.Module, takes_input: bool = False, index: int = 0) -> None:
        super().__init__(address)
        self.module, self.takes_input, self.index = module, takes_input, index

    def install(self, record: Record, removers: list[Remover]) -> None:
        """Put one hook on the module."""
        if self.takes_input:
            hook = hooks.Input(record, self.address)
            removers.append(self.module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        else:
            removers.append(self.module.register_forward_hook(hooks.Output(record, self.address, self.index)).remove)


class LastProbe(ModuleProbe):
    """The last hidden state of a model that ties it to its `last_hidden_state`, after the final norm."""

    def __init__(self, address: str, layer: nn.Module, model: nn.Module, index: int) -> None:
        super().__init__(address, layer, index=index)
        self.model = model

    def install(self, record: Record, removers: list[Remover]) -> None:
        """Put a hook on the last layer, and one on the model whose output replaces it."""
        layer = hooks.Output(record, self.address, self.index, final=False)
        removers.append(self.module.register_forward_hook(layer).remove)
        removers.append(self.model.register_forward_hook(hooks.LastHiddenState(record, self.address)).remove)


class SharedProbe(Probe):
    """The hidden state after call number `wanted` of a stack whose modules run as several layers."""

    def __init__(self, address: str, stack: Stack, wanted: int) -> None:
        super().__init__(address)
        self.modules = list({id(layer.module): layer.outer for layer in stack.layers}.values())
        self.wanted, self.index = wanted, stack.index

    def install(self, record: Record, removers: list[Remover]) -> None:
        """Put the same counting hook on every module of the stack."""
        first = hooks.FirstInput(record, self.address)
        counted = hooks.CountedOutput(record, self.address, self.wanted, self.index)
        for module in self.modules:
            if self.wanted:
                removers.append(module.register_forward_hook(counted).remove)
            else:
                removers.append(module.register_forward_pre_hook(first, with_kwargs=True).remove)


class KernelProbe(Probe):
    """What an attention kernel receives, or the map made from it, in modules with the attention interface."""

    def __init__(self, address: str, kind: str, modules: list[nn.Module], wanted: int = 0) -> None:
        super().__init__(address)
        self.kind, self.modules, self.wanted = kind, modules, wanted
        self.eager: Callable[..., Any] = own_eager(modules[0])  # type: ignore[assignment]

    def install(self, record: Record, removers: list[Remover]) -> None:
        """Register a listener for the kernel's calls."""
        listener = Listener(record, self.address, self.wanted)
        removers.extend(listen(module, self.eager, listener) for module in self.modules)

    def finish(self, value: Any) -> Tensor:
        """Return the recorded tensor, or compute the map."""
        if self.kind == "attention":
            return attention_map(value, self.eager)
        return attention_scores(value) if self.kind == "scores" else getattr(value, self.kind)


class RequestProbe(Probe):
    """The map of a module that returns it on request."""

    def __init__(self, address: str, module: nn.Module) -> None:
        super().__init__(address)
        self.module = module

    def install(self, record: Record, removers: list[Remover]) -> None:
        """Request the map in each forward pass."""
        request_map(self.module, record, self.address, removers)

    def finish(self, value: Any) -> Tensor:
        """Return the map.

        Raises:
            AddressError: if the module returned none, or one that is not over all pairs of tokens.

        """
        if value.map is None or value.map.shape[-2] != value.tokens:
            shape = "none" if value.map is None else tuple(value.map.shape)
            raise AddressError(
                f"'{self.address}' is no map of tokens by tokens: {type(self.module).__name__} returned {shape} "
                f"for {value.tokens} tokens."
            )
        return value.map


class MultiheadProbe(Probe):
    """A feature of an `nn.MultiheadAttention`."""

    def __init__(self, address: str, kind: str, module: nn.Module) -> None:
        super().__init__(address)
        self.kind, self.module = kind, module

    def install(self, record: Record, removers: list[Remover]) -> None:
        """Collect the arguments."""
        hook = CollectCall(record, self.address)
        removers.append(self.module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def finish(self, value: Any) -> Tensor:
        """Compute the feature from the arguments."""
        return multihead_feature(value, self.kind)


class FieldProbe(Probe):
    """A field of the model's output."""

    def __init__(
        self, address: str, model: nn.Module, outputs: Callable[[Any], Mapping[str, Any]] | None = None
    ) -> None:
        super().__init__(address)
        self.model, self.outputs = model, outputs or output_fields

    def install(self, record: Record, removers: list[Remover]) -> None:
        """Collect the whole output."""
        removers.append(self.model.register_forward_hook(hooks.WholeOutput(record, self.address)).remove)

    def finish(self, value: Any) -> Tensor:
        """Return the field.

        Raises:
            AddressError: if the output has no such field this time.

        """
        fields = self.outputs(value)
        if not isinstance(fields, Mapping):
            raise AddressError(
                f"Adapter(outputs=…) returned a {type(fields).__name__}, and must return a mapping such as "
                "{'logits': …}."
            )
        given = [name for name in fields if fields[name] is not None]
        if self.address not in given:
            raise AddressError(f"The model's output has no '{self.address}' this time. {hint(self.address, given)}")
        return super().finish(fields[self.address])
