"""Models that return their features: `TappedModel`, the form to compile, and `Runner`, which also reads batches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from kd_lightning.core.adapter import Adapter, ArgumentRule
from kd_lightning.core.errors import AddressError
from kd_lightning.core.types import Batch, Features, ModelInfo
from kd_lightning.features.hooks import AllCollected, no_hook
from kd_lightning.features.info import model_info
from kd_lightning.features.tap import FeatureTap


class TappedModel(nn.Module):
    """Wraps a model so that its forward returns `(outputs, features)`.

    The tap stays entered from construction to `close()`, so `torch.compile(TappedModel(…), fullgraph=True)` traces it
    with the model. Hooks that are installed after a model's first compiled call do not run.

    Args:
        model: the model; it stays what it is, apart from the tap.
        addresses: as for `FeatureTap`.
        outputs: as for `FeatureTap`.

    Raises:
        AddressError: if the model does not have an address.

    Example:
        >>> import torch
        >>> tapped = TappedModel(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), ["0"])
        >>> outputs, features = tapped(torch.zeros(5, 4))
        >>> outputs.shape, features["0"].shape
        (torch.Size([5, 2]), torch.Size([5, 3]))
        >>> tapped.close()

    """

    def __init__(
        self,
        model: nn.Module,
        addresses: Sequence[str],
        outputs: Callable[[Any], Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.outputs = outputs
        self.tap = FeatureTap(model, addresses, outputs)
        self.addresses = tuple(addresses)
        self.tap.__enter__()

    def __repr__(self) -> str:
        closed = "" if self.tap.entered else ", closed"
        return f"TappedModel({type(self.model).__name__}, {list(self.addresses)}{closed})"

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, Features]:
        """Run the model; return its outputs and its features by address.

        Raises:
            AddressError: if the tapped model is closed.

        """
        if not self.tap.entered:
            raise AddressError("This TappedModel is closed; call its `model`, or make a new one.")
        outputs = self.model(*args, **kwargs)
        return outputs, self.tap.take()

    def close(self) -> None:
        """Remove the tap from the model, for good. Closing twice does no harm."""
        if self.tap.entered:
            self.tap.__exit__(None, None, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> TappedModel:
        return _rebuild(copy.deepcopy(self.model, memo), self.addresses, self.outputs, self.tap.entered)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.model, self.addresses, self.outputs, self.tap.entered)


def _rebuild(model: nn.Module, addresses: Sequence[str], outputs: Any, entered: bool) -> TappedModel:
    for module in model.modules():
        for found in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in found.items() if hook is no_hook]:
                del found[key]
    tapped = TappedModel(model, addresses, outputs)
    if not entered:
        tapped.close()
    return tapped


class Runner:
    """Calls a model on batches by way of an adapter and returns its features: used by the student and live teachers.

    Leaves the model as it was between calls. A plain class, not a module: whoever owns the model decides whether it is
    registered.

    Args:
        model: any module.
        adapter: for models that do not follow the usual forms.
        compile: run the model and its taps as one compiled graph, from `open` to `close`.
        stop_early: run no deeper than the deepest feature, where no field of the model's output is requested.

    """

    def __init__(
        self, model: nn.Module, adapter: Adapter | None = None, compile: bool = False, stop_early: bool = False
    ) -> None:
        self.model = model
        self.adapter = adapter
        self.compile = compile
        self.stop_early = stop_early
        self.addresses: tuple[str, ...] = ()
        self._tap: FeatureTap | None = None
        self._tapped: TappedModel | None = None
        self._compiled: Any = None

    @property
    def info(self) -> ModelInfo:
        """What is known of the model before it runs."""
        return model_info(self.model, has_outputs=self._outputs is not None)

    @property
    def _outputs(self) -> Any:
        return self.adapter.outputs if self.adapter is not None else None

    def ask(self, addresses: Sequence[str]) -> None:
        """Set which features every later call returns.

        Raises:
            AddressError: if the model does not have an address.

        """
        self.close()
        self.addresses = tuple(addresses)
        self._rule = ArgumentRule(self.model, self.adapter, with_labels="loss" in self.addresses)
        self._tap = None if self.compile else FeatureTap(self.model, self.addresses, self._outputs, self.stop_early)

    def open(self) -> None:
        """Enter the tap of a compiled model, before its first call: later, its hooks would never run."""
        if self.compile and self._tapped is None:
            self._tapped = TappedModel(self.model, self.addresses, self._outputs)
            self._compiled = torch.compile(self._tapped)

    def close(self) -> None:
        """Remove the tap of a compiled model; the next call opens it again."""
        if self._tapped is not None:
            self._tapped.close()
        self._tapped = self._compiled = None

    def __call__(self, batch: Batch) -> Features:
        """Return the requested features of one forward pass."""
        args, kwargs = self._rule(batch)
        if self.compile:
            self.open()
            return self._compiled(*args, **kwargs)[1]
        assert self._tap is not None, "ask() comes before the first call"
        with self._tap:
            with suppress(AllCollected):
                self.model(*args, **kwargs)
            return self._tap.take()

    def __getstate__(self) -> dict[str, Any]:
        """Leave taps behind when copied or pickled; `ask` makes them anew."""
        return {**self.__dict__, "_tap": None, "_tapped": None, "_compiled": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if "_rule" in state:
            self.ask(self.addresses)
