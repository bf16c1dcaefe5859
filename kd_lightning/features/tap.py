"""The tap: a context in which a model's forward pass leaves the addressed features behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from kd_lightning.core.errors import AddressError
from kd_lightning.core.types import Features
from kd_lightning.features import hooks
from kd_lightning.features.hooks import Remover
from kd_lightning.features.nested import keep_padded
from kd_lightning.features.record import Record
from kd_lightning.features.resolver import Resolver
from kd_lightning.features.stopping import EarlyStop

_REASONS = {
    "idle": (
        "no forward pass of the tapped model has been seen; call the model itself, not its parts, and if it is "
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
    pass did.

    Args:
        model: any module; wrappers of DDP and `torch.compile` are seen through.
        addresses: `hidden.3`, `attention.3`, `logits`, `encoder.layer.3.output`, `classifier:in`, …
        outputs: makes named fields from the model's output, for output addresses. By default a mapping or dataclass
            has its own names, a tensor is `logits`.
        stop_early: end forward passes by the exception `AllCollected` once all features are there, where that is
            safe; for callers that catch it and do not need the model's output.

    Raises:
        AddressError: an address the model does not have; names the closest ones it has.

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
        if isinstance(addresses, str):
            raise AddressError(f"Addresses are a list of strings, so write ['{addresses}'].")
        resolver = Resolver(model, outputs)
        self.addresses = tuple(dict.fromkeys(addresses))
        self._model = resolver.model
        self._encoders = resolver.encoders
        self._probes = {address: resolver.probe(address) for address in self.addresses}
        self._stop = EarlyStop(resolver, self.addresses) if stop_early else None
        self._record = Record()
        self._removers: list[Remover] = []
        self._depth = 0

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
            self._record.wipe("failed")

    @property
    def entered(self) -> bool:
        """Whether the hooks are on the model now."""
        return self._depth > 0

    def take(self) -> Features:
        """Return the features of the last forward pass, by address, and forget them.

        Attention maps and scores are made here, from the queries and keys that were noted.

        Raises:
            AddressError: there was no complete forward pass since the last call, a feature did not arrive, or
                gradient checkpointing kept its gradient back.

        """
        record = self._record
        if record.state != "complete":
            raise AddressError(f"The tap has no features: {_REASONS[record.state]}.")
        try:
            features = {address: self._read(address) for address in self.addresses}
            if self._stop is not None:
                self._stop.learn(record.arrivals)
        finally:
            record.wipe("taken")
        return features

    def _read(self, address: str) -> Tensor:
        note = self._record.notes.get(address)
        if note is None:
            raise AddressError(
                f"'{address}' did not arrive: its module did not run in the last forward pass, or it ran in code "
                "compiled before the tap was put on; in that case compile a TappedModel instead."
            )
        feature = self._probes[address].finish(note)
        if self._record.without_grad[address] and self._model.training and not feature.requires_grad:
            raise AddressError(
                f"'{address}' has no gradient, because it was computed under no_grad within the forward pass. With "
                "gradient checkpointing, switch it on with use_reentrant=False."
            )
        return feature

    def _install(self) -> None:
        self._record.wipe()
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
