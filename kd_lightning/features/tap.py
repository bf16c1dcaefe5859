"""The tap: a context in which a model's forward pass leaves the addressed features behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.nn.modules import module as modules

from kd_lightning.core.arguments import check_model
from kd_lightning.core.errors import AddressError
from kd_lightning.core.types import Features
from kd_lightning.features import hooks
from kd_lightning.features.hooks import Record, Remover
from kd_lightning.features.inplace import overwrites
from kd_lightning.features.resolver import Resolver

_REASONS = {
    "idle": (
        "no forward pass of the tapped model has run; call the model itself, not its parts, and if it is "
        "compiled, compile a TappedModel instead, because hooks put on after a compiled call do not run"
    ),
    "running": "the forward pass is still running",
    "failed": "the last forward pass did not finish",
    "taken": "the features of the last forward pass have been taken",
}


class FeatureTap:
    """Collects addressed features during a forward pass, and leaves the model as it was.

    Addresses are resolved once, here; the tap may then be entered for every step, at a few microseconds per address.
    Features belong to the last forward pass of `model`, and in it to a module's last call. They carry gradients if that
    pass did. Of a model that works in place (`ReLU(inplace=True)`, `x += y`) they are copies, made before it does.

    Args:
        model: any module; wrappers of DDP and `torch.compile` are seen through.
        addresses: `hidden.3`, `attention.3`, `logits`, `encoder.layer.3.output`, `classifier:in`, …
        outputs: makes named fields from the model's output, for output addresses. By default a mapping or dataclass
            has its own names, a tensor is `logits`.
        stop_early: end forward passes by the exception `AllCollected` once all features are there, where that is
            safe; for callers that catch it and do not need the model's output.

    Raises:
        AddressError: if the model does not have an address; names the closest ones it has.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> tap = FeatureTap(model, ["0", "2:in", "logits"])
        >>> with tap:
        ...     _ = model(torch.zeros(5, 4))
        ...     {address: tuple(feature.shape) for address, feature in tap.take().items()}
        {'0': (5, 3), '2:in': (5, 3), 'logits': (5, 2)}

    """

    def __init__(
        self,
        model: nn.Module,
        addresses: Sequence[str],
        outputs: Callable[[Any], Mapping[str, Any]] | None = None,
        stop_early: bool = False,
    ) -> None:
        check_model("model", model)
        if isinstance(addresses, str):
            raise AddressError(f"Addresses are a list of strings, so write ['{addresses}'].")
        if not isinstance(addresses, Iterable) or not all(isinstance(address, str) for address in addresses):
            raise AddressError(f"Addresses are a list of strings, such as ['logits'], but got {addresses!r}.")
        resolver = Resolver(model, outputs)
        self.addresses = tuple(dict.fromkeys(addresses))
        self._model = resolver.model
        self._encoders = resolver.encoders
        self._probes = {address: resolver.probe(address) for address in self.addresses}
        self._stop = EarlyStop(resolver, self.addresses) if stop_early else None
        self._record = Record(copies=overwrites(resolver.model))
        self._removers: list[Remover] = []
        self._depth = 0

    def __repr__(self) -> str:
        entered = ", entered" if self.entered else ""
        return f"FeatureTap({type(self._model).__name__}, {list(self.addresses)}{entered})"

    def __enter__(self) -> FeatureTap:
        self._depth += 1
        if self._depth == 1:
            self._install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._remove()
        if error is not None:
            self._record.clear("failed")

    @property
    def entered(self) -> bool:
        """Whether the hooks are on the model now."""
        return self._depth > 0

    def take(self) -> Features:
        """Return the features of the last forward pass, by address, and forget them.

        Attention maps and scores are computed here, from the recorded queries and keys.

        Raises:
            AddressError: if there was no complete forward pass since the last call, a feature was not collected or was
                overwritten in place, or gradient checkpointing cut off its gradient.

        """
        record = self._record
        if record.state != "complete":
            raise AddressError(f"The tap has no features: {_REASONS[record.state]}.")
        try:
            features = {address: self._read(address) for address in self.addresses}
            if self._stop is not None:
                self._stop.learn(record.collected)
        finally:
            record.clear("taken")
        return features

    def _read(self, address: str) -> Tensor:
        value = self._record.values.get(address)
        if value is None:
            raise AddressError(
                f"'{address}' was not collected: its module did not run in the last forward pass, or it ran in code "
                "compiled before the tap was entered; in that case compile a TappedModel instead."
            )
        if self._record.is_overwritten(address):
            raise AddressError(
                f"'{address}' was overwritten in place after it was computed, so what was there is lost: write the "
                "operation behind it out of place, such as F.relu(x) for F.relu_(x) and x = x + y for x += y."
            )
        feature = self._probes[address].finish(value)
        if self._record.without_grad[address] and self._model.training and not feature.requires_grad:
            raise AddressError(
                f"'{address}' has no gradient, because it was computed under no_grad within the forward pass. With "
                "gradient checkpointing, switch it on with use_reentrant=False."
            )
        return feature

    def _install(self) -> None:
        self._record.clear()
        self._record.stop_after = len(self.addresses) if self._stop is not None and self._stop.applies() else 0
        removers = self._removers
        try:
            begin = hooks.Begin(self._record, "")
            removers.append(self._model.register_forward_pre_hook(begin, prepend=True).remove)
            removers.extend(keep_padded(encoder) for encoder in self._encoders)
            for probe in self._probes.values():
                probe.install(self._record, removers)
            removers.append(self._model.register_forward_hook(hooks.End(self._record, "")).remove)
            raised = hooks.Raised(self._record, "")
            removers.append(self._model.register_forward_hook(raised, always_call=True).remove)
        except BaseException:
            self._depth = 0
            self._remove()
            raise

    def _remove(self) -> None:
        while self._removers:
            self._removers.pop()()


class EarlyStop:
    """Decides whether the forward passes of one model may end early: everything requested has been collected.

    What comes deeper in a model is then computed for nothing: the layers above `hidden.4`, or a language model's head.
    The pass is ended by an exception in the hook that collects the last feature; this is exact, and the rest does not
    run.

    Only features of layers in models of Transformers' own, which run each layer once per pass: of a module path, or of
    a model whose forward is the user's, it is not known whether it runs again. The first pass runs to its end and shows
    whether each feature is collected just once. A model that is wrapped, patched or compiled, or has hooks of others,
    which may wait for what comes later, is never stopped, nor is any while there are global module hooks.

    Args:
        resolver: knows the model.
        addresses: what is requested.
    """

    def __init__(self, resolver: Resolver, addresses: Sequence[str]) -> None:
        own = type(resolver.model).__module__.startswith("transformers.")
        layers = bool(addresses) and all(resolver.layer(address) is not None for address in addresses)
        bare = resolver.is_bare and all(node.outer is node.module for node in resolver.nodes.values())
        self._modules = [node.module for node in resolver.nodes.values()]
        self._once: bool | None = None if own and layers and bare else False

    def learn(self, collected: Mapping[str, int]) -> None:
        """Learn from a pass that ran to its end how often each feature was collected."""
        if self._once is None:
            self._once = all(times == 1 for times in collected.values())

    def applies(self) -> bool:
        """Return whether the next pass may end early; to be called before own hooks are installed."""
        watched = modules._global_forward_hooks or modules._global_forward_pre_hooks  # by profilers, for instance
        return bool(self._once) and not watched and all(_is_untouched(module) for module in self._modules)


def _is_untouched(module: nn.Module) -> bool:
    hooked = module._forward_hooks or module._forward_pre_hooks
    return not hooked and module._compiled_call_impl is None and "forward" not in module.__dict__


_padded: WeakKeyDictionary[nn.TransformerEncoder, int] = WeakKeyDictionary()
"""How many taps keep an encoder from using nested tensors."""


def keep_padded(encoder: nn.TransformerEncoder) -> Remover:
    """Keep `nn.TransformerEncoder` from passing nested tensors to its layers while they are tapped.

    It does so in eval mode without gradients and with padding, and its layers then take their fused path only, in which
    hooks are not called.

    Returns:
        What switches nested tensors on again, once no other tap needs them off.

    """
    if encoder not in _padded:
        if not getattr(encoder, "use_nested_tensor", False):
            return lambda: None
        _padded[encoder] = 0
        encoder.use_nested_tensor = False
    _padded[encoder] += 1

    def release() -> None:
        _padded[encoder] -= 1
        if not _padded[encoder]:
            del _padded[encoder]
            encoder.use_nested_tensor = True

    return release
